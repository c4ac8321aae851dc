"""Qwen2 and Qwen2.5 models."""

from torchtune.models.qwen2._model import (
    qwen2_0_5b,
    qwen2_1_5b,
    qwen2_5_3b,
    qwen2_5_14b,
    qwen2_5_32b,
    qwen2_5_72b,
    qwen2_7b,
)
from torchtune.models.qwen2._tokenizer import qwen2_tokenizer

__all__ = [
    "qwen2_0_5b",
    "qwen2_1_5b",
    "qwen2_5_3b",
    "qwen2_5_14b",
    "qwen2_5_32b",
    "qwen2_5_72b",
    "qwen2_7b",
    "qwen2_tokenizer",
]
