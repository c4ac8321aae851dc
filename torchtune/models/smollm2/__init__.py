"""SmolLM2 (arXiv 2502.02737)."""

from torchtune.models.smollm2._model import smollm2, smollm2_1_7b, smollm2_135m, smollm2_360m
from torchtune.models.smollm2._tokenizer import smollm2_tokenizer

__all__ = ["smollm2", "smollm2_1_7b", "smollm2_135m", "smollm2_360m", "smollm2_tokenizer"]
