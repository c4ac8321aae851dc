"""Write files and folders atomically, and read and write JSON files."""

from torchtune.files._atomic import atomic_folder, partial_path, resolve_folder, write_text
from torchtune.files._json import read_json, unexpected_value, write_json
from torchtune.files._ranks import SINGLE_RANK, Ranks

__all__ = [
    "SINGLE_RANK",
    "Ranks",
    "atomic_folder",
    "partial_path",
    "read_json",
    "resolve_folder",
    "unexpected_value",
    "write_json",
    "write_text",
]
