"""The files of a tokenizer, which are copied as they are."""

import shutil
from collections.abc import Sequence
from pathlib import Path

VOCABULARIES = ("tokenizer.json", "tokenizer.model")
"""Either of these is a tokenizer; the other files say how it is used."""

TOKENIZER_FILES = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds a tokenizer that can be read."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def tokenizer_folder(path: Path) -> Path:
    """Find a tokenizer's folder, given itself or a file of it.

    Raises:
        FileNotFoundError: there is no tokenizer.
        ValueError: the file is none of a tokenizer's.
    """
    if path.is_file() and path.name not in TOKENIZER_FILES:
        raise ValueError(
            f"{path} is no file of a tokenizer; name its {' or '.join(VOCABULARIES)}, or the folder that holds it"
        )
    folder = path.parent if path.is_file() else path
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"neither {' nor '.join(VOCABULARIES)} in {folder}")
    return folder


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files.

    Raises:
        FileNotFoundError: there is no tokenizer.
    """
    copy_files(tokenizer_folder(source), target, TOKENIZER_FILES)


def copy_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy those of the named files that are there."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
