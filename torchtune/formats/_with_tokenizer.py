"""Replace the tokenizer of a checkpoint."""

from contextlib import suppress
from pathlib import Path

from attrs import evolve

from torchtune.files import read_json, write_json
from torchtune.formats._checkpoint import Checkpoint
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
    """Return a checkpoint with a different tokenizer.

    Generation settings are kept; special ids that only the new tokenizer has are added.

    Args:
        checkpoint: A checkpoint with or without a tokenizer.
        path: The folder of the new tokenizer, or one of its files.

    Raises:
        FileNotFoundError: The tokenizer does not exist.
        ValueError: The file is not a tokenizer file.
    """
    folder = tokenizer_folder(path)

    def write_tokenizer(target: Path) -> SpecialIds:
        old_ids = SpecialIds()
        with suppress(FileNotFoundError):  # Meta's tokenizer may be in a different folder from the weights.
            old_ids = checkpoint.write_tokenizer(target)
        remove_tokenizer(target)
        copy_tokenizer(folder, target)
        new_ids = SpecialIds.from_folder(folder)
        if not new_ids.eos_ids():
            new_ids = SpecialIds.from_tokenizer(auto_tokenizer(str(folder)))
        ids = old_ids.joined(new_ids)
        generation = target / GENERATION_CONFIG
        if not generation.is_file():
            copy_files(folder, target, [GENERATION_CONFIG])
        elif ids.non_null() != old_ids.non_null():
            write_json(generation, {**read_json(generation), **ids.non_null()})
        return ids

    return evolve(checkpoint, write_tokenizer=write_tokenizer, tokenizer=folder)
