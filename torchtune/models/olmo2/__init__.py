"""OLMo 2 models."""

from torchtune.models.olmo2._model import olmo2_1b, olmo2_7b, olmo2_13b, olmo2_32b

__all__ = ["olmo2_1b", "olmo2_7b", "olmo2_13b", "olmo2_32b"]
