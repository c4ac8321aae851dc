"""OLMo 2 models."""

from torchtune.models.olmo2._model import olmo2_1b, olmo2_7b, olmo2_13b, olmo2_32b
from torchtune.models.olmo2._tokenizer import olmo2_tokenizer

__all__ = ["olmo2_1b", "olmo2_7b", "olmo2_13b", "olmo2_32b", "olmo2_tokenizer"]
