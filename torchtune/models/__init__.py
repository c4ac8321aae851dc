"""Model families: the sizes of each, its side of config.json and of GGUF, its tokenizer."""

from torchtune.models._families import FAMILIES
from torchtune.models._family import KEYS, written_rope
from torchtune.models._vocabulary import check_vocabulary
from torchtune.models.llama3 import STRETCHED

__all__ = ["FAMILIES", "KEYS", "STRETCHED", "check_vocabulary", "written_rope"]
