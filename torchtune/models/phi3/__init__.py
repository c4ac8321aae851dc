"""Phi-3 and Phi-4 models."""

from torchtune.models.phi3._model import phi3_mini_4k, phi4
from torchtune.models.phi3._tokenizer import phi3_tokenizer

__all__ = ["phi3_mini_4k", "phi3_tokenizer", "phi4"]
