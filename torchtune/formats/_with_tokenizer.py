"""A checkpoint's weights beside a tokenizer that came from elsewhere."""

from contextlib import suppress
from pathlib import Path

from attrs import evolve

from torchtune.files import read_json, write_json
from torchtune.formats._source import Checkpoint
from torchtune.tokenizers import (
    GENERATION_CONFIG,
    SpecialIds,
    auto_tokenizer,
    copy_files,
    copy_tokenizer,
    remove_tokenizer,
    tokenizer_folder,
)


def with_tokenizer(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Put another tokenizer in the place of a checkpoint's own.

    How the model generates stays as it was, but for the ids of special tokens that are the new tokenizer's alone.

    Args:
        checkpoint: With a tokenizer or without.
        path: The other tokenizer's folder, or a file of it.

    Raises:
        FileNotFoundError: there is no tokenizer.
        ValueError: the file is none of a tokenizer's.
    """
    folder = tokenizer_folder(path)

    def write_tokenizer(target: Path) -> SpecialIds:
        own = SpecialIds()
        with suppress(FileNotFoundError):  # Meta's weights may lie apart from their tokenizer.
            own = checkpoint.write_tokenizer(target)
        remove_tokenizer(target)
        copy_tokenizer(folder, target)
        others = SpecialIds.from_folder(folder)
        if not others.eos_ids():
            others = SpecialIds.from_tokenizer(auto_tokenizer(str(folder)))
        ids = own.joined(others)
        generation = target / GENERATION_CONFIG
        if not generation.is_file():
            copy_files(folder, target, [GENERATION_CONFIG])
        elif ids.non_null() != own.non_null():
            write_json(generation, {**read_json(generation), **ids.non_null()})
        return ids

    return evolve(checkpoint, write_tokenizer=write_tokenizer, tokenizer=folder)
