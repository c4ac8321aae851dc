"""Find, copy, write and remove the files of a tokenizer."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchtune.files import write_json
from torchtune.tokenizers._special_ids import GENERATION_CONFIG, SpecialIds

VOCABULARIES = (("tokenizer.json",), ("tokenizer.model",), ("tekken.json",), ("vocab.json", "merges.txt"))
"""Vocabulary files by kind of tokenizer; if a folder has several kinds, the first one is read."""

EXPECTED = "tokenizer.json, tokenizer.model, tekken.json, or vocab.json with merges.txt"

SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Configuration files of a tokenizer."""

TOKENIZER_FILES = (
    *(name for names in VOCABULARIES for name in names),
    *SIDE_FILES,
    "additional_chat_templates",
)
"""All files of a tokenizer; the last entry is a folder."""


def vocabulary_file(folder: Path) -> Path | None:
    """Return the (first) vocabulary file of a folder's tokenizer, or None if the folder has no tokenizer."""
    kinds = (names for names in VOCABULARIES if all((folder / name).is_file() for name in names))
    return next((folder / names[0] for names in kinds), None)


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a tokenizer of a supported kind."""
    return vocabulary_file(folder) is not None


def missing_tokenizer_error(folder: Path) -> FileNotFoundError:
    """Return the error for a folder without a tokenizer."""
    return FileNotFoundError(f"no tokenizer in {folder}: expected {EXPECTED}")


def tokenizer_folder(path: Path) -> Path:
    """Return a tokenizer's folder, given the folder or one of its files.

    Raises:
        FileNotFoundError: The folder has no tokenizer.
        ValueError: The file is not a tokenizer file.
    """
    if path.is_file() and path.name not in TOKENIZER_FILES:
        raise ValueError(
            f"{path} is not a tokenizer file; expected {EXPECTED}, or a folder that contains one of these files"
        )
    folder = path.parent if path.is_file() else path
    if not has_tokenizer(folder):
        raise missing_tokenizer_error(folder)
    return folder


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files.

    Raises:
        FileNotFoundError: The source folder has no tokenizer.
    """
    copy_files(tokenizer_folder(source), target, TOKENIZER_FILES)


def write_tokenizer(
    folder: Path, tokenizer_json: str | None, config: Mapping[str, Any], ids: SpecialIds
) -> SpecialIds:
    """Write a tokenizer's files, and return `ids`.

    Args:
        folder: Target folder.
        tokenizer_json: Contents of tokenizer.json; None: the file is not written.
        config: Contents of tokenizer_config.json.
        ids: Contents of generation_config.json.
    """
    if tokenizer_json is not None:
        (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / GENERATION_CONFIG, ids)
    return ids


def remove_tokenizer(folder: Path) -> None:
    """Remove a tokenizer's files from a folder."""
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def copy_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Copy the named files and folders that exist."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
        elif (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
