"""Llama 3, 3.1, 3.2 and 3.3 models."""

from torchtune.models.llama3._model import (
    llama3_1_8b,
    llama3_1_70b,
    llama3_1_405b,
    llama3_2_1b,
    llama3_2_3b,
    llama3_3_70b,
    llama3_8b,
    llama3_70b,
)
from torchtune.models.llama3._tokenizer import llama3_tokenizer

__all__ = [
    "llama3_1_8b",
    "llama3_1_70b",
    "llama3_1_405b",
    "llama3_2_1b",
    "llama3_2_3b",
    "llama3_3_70b",
    "llama3_8b",
    "llama3_70b",
    "llama3_tokenizer",
]
