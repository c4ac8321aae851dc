"""Other people's checkpoints to ours: the work behind `tune convert`."""

import os
from pathlib import Path

from torchtune.models._gguf import Progress, convert_gguf


def convert(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: Progress | None = None
) -> None:
    """Turn a checkpoint into another format: a GGUF file into a Hugging Face folder.

    Args:
        source: A GGUF file.
        target: The folder to write: config, weights and tokenizer in one.
        progress: Called after each tensor with the number done and the number of all.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: the target has something in it.
        OSError: there is no room for the target.
        ValueError: the source is of another format, damaged, or holds what is not supported.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"no file {source}")
    if source.is_dir() or source.suffix.lower() != ".gguf":
        raise ValueError(
            f"{source} cannot be converted: the source must be a .gguf file, which becomes a Hugging Face folder"
        )
    convert_gguf(source, target, progress=progress)
