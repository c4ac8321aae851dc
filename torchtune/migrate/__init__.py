"""Convert configs of the original torchtune, and explain the keys of other projects' configs."""

from torchtune.migrate._original import Import
from torchtune.migrate._read import read_original

__all__ = ["Import", "read_original"]
