"""The reader for a file, chosen by the suffix of its name."""

from collections.abc import Callable, Iterable
from pathlib import Path

from torchtune.datasets._arrow_files import open_arrow, open_parquet, open_saved
from torchtune.datasets._compressed import COMPRESSIONS, ending
from torchtune.datasets._csv_files import Csv
from torchtune.datasets._json_files import open_json
from torchtune.datasets._tables import Table
from torchtune.datasets._text_files import TextLines

_READERS: dict[str, Callable[[Path], Table]] = {
    ".json": open_json,
    ".jsonl": open_json,
    ".csv": Csv,
    ".tsv": Csv,
    ".txt": TextLines,
    ".parquet": open_parquet,
    ".arrow": open_arrow,
    ".ndjson": open_json,
}
_NOT_COMPRESSED = (".parquet", ".arrow")
_POINTER = b"version https://git-lfs.github.com"
"""The first bytes of a Git LFS pointer, which replaces a file until it is downloaded."""
SAVED = "saved by datasets"
"""The format of a folder written by `Dataset.save_to_disk`."""
ENDINGS = ", ".join(_READERS)
EXPECTED = (
    f"expected a data file ending in {ENDINGS} (text may be compressed: {', '.join(COMPRESSIONS)}), a folder or a"
    " pattern of such files, or the name of a dataset on the Hugging Face hub"
)


def is_saved(path: Path) -> bool:
    """Return whether a folder was written by `Dataset.save_to_disk`."""
    return (path / "state.json").is_file()


def format_of(path: Path) -> str | None:
    """Return a file's format as a file name suffix, `SAVED` for a saved folder, or None for anything else."""
    if path.is_dir():
        return SAVED if is_saved(path) else None
    end = ending(path)
    is_compressed = path.suffix.lower() in COMPRESSIONS
    if end not in _READERS or (is_compressed and end in _NOT_COMPRESSED):
        return None
    return ".jsonl" if end == ".ndjson" else end


def check_formats(paths: Iterable[Path]) -> None:
    """Check that each path is a data file or a saved folder.

    Raises:
        ValueError: A path is neither; the message lists the formats.
    """
    for path in paths:
        if format_of(path) is None:
            raise ValueError(f"{path}: {EXPECTED}")


def check_downloaded(path: Path) -> None:
    """Check that a file is not a Git LFS pointer.

    Raises:
        ValueError: The file is a pointer; the message explains how to download the data.
    """
    if path.is_dir():
        return
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{path}: the file is a Git LFS pointer, not the data; run `git lfs pull`")


def open_file(path: Path) -> Table:
    """Open a data file or a saved folder.

    Raises:
        ValueError: It has no rows, is damaged, or is not in the format that its name indicates.
    """
    return open_saved(path) if path.is_dir() else _READERS[ending(path)](path)
