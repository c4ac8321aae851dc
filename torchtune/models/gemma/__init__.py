"""Gemma, Gemma 2 and Gemma 3 (text) models."""

from torchtune.models.gemma._model import (
    gemma2_2b,
    gemma2_9b,
    gemma2_27b,
    gemma3_1b,
    gemma3_270m,
    gemma_2b,
    gemma_7b,
)
from torchtune.models.gemma._tokenizer import gemma_tokenizer

__all__ = [
    "gemma2_2b",
    "gemma2_9b",
    "gemma2_27b",
    "gemma3_1b",
    "gemma3_270m",
    "gemma_2b",
    "gemma_7b",
    "gemma_tokenizer",
]
