"""Llama 2 (arXiv 2307.09288), Code Llama (arXiv 2308.12950) and TinyLlama (arXiv 2401.02385)."""

from torchtune.models.llama2._model import (
    LLAMA2_7B,
    LLAMA2_70B,
    code_llama_7b,
    llama2,
    llama2_7b,
    llama2_13b,
    llama2_70b,
    tiny_llama_1_1b,
)
from torchtune.models.llama2._tokenizer import llama2_tokenizer

__all__ = [
    "LLAMA2_7B",
    "LLAMA2_70B",
    "code_llama_7b",
    "llama2",
    "llama2_7b",
    "llama2_13b",
    "llama2_70b",
    "llama2_tokenizer",
    "tiny_llama_1_1b",
]
