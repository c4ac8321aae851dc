"""Configs of other projects, turned into ours or explained key by key."""

from torchtune.migrate._original import Import
from torchtune.migrate._read import read_original

__all__ = ["Import", "read_original"]
