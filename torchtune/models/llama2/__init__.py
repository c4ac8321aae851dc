"""Llama 2 (arXiv 2307.09288)."""

from torchtune.models.llama2._model import llama2, llama2_7b
from torchtune.models.llama2._tokenizer import llama2_tokenizer

__all__ = ["llama2", "llama2_7b", "llama2_tokenizer"]
