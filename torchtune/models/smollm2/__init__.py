"""SmolLM2 (arXiv 2502.02737)."""

from torchtune.models.smollm2._model import smollm2, smollm2_135m

__all__ = ["smollm2", "smollm2_135m"]
