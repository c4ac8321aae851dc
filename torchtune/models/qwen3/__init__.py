"""Qwen3 dense models."""

from torchtune.models.qwen3._model import qwen3_0_6b, qwen3_1_7b, qwen3_4b, qwen3_8b, qwen3_14b, qwen3_32b
from torchtune.models.qwen3._tokenizer import qwen3_tokenizer

__all__ = [
    "qwen3_0_6b",
    "qwen3_1_7b",
    "qwen3_4b",
    "qwen3_8b",
    "qwen3_14b",
    "qwen3_32b",
    "qwen3_tokenizer",
]
