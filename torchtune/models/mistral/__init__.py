"""Mistral models."""

from torchtune.models.mistral._model import mistral_7b, mistral_7b_v0_3
from torchtune.models.mistral._tokenizer import mistral_tokenizer

__all__ = ["mistral_7b", "mistral_7b_v0_3", "mistral_tokenizer"]
