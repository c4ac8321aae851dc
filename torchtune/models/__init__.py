"""Model families: their sizes, tokenizers, and mappings to config.json and GGUF."""

from torchtune.models._families import FAMILIES
from torchtune.models._family import KEYS, write_rope
from torchtune.models._vocabulary import check_vocabulary
from torchtune.models.llama3 import LLAMA3_ROPE_SCALING

__all__ = ["FAMILIES", "KEYS", "LLAMA3_ROPE_SCALING", "check_vocabulary", "write_rope"]
