"""Which reader reads a file, by the ending of its name."""

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
"""What a file begins with that stands for one which Git LFS has not downloaded."""
SAVED = "saved by datasets"
"""The format of a folder that `Dataset.save_to_disk` wrote."""
ENDINGS = ", ".join(_READERS)
EXPECTED = (
    f"expected a file of rows ending in {ENDINGS} (text also compressed: {', '.join(COMPRESSIONS)}), a folder or a"
    " pattern of such files, or the name of a data set on the Hugging Face hub"
)


def is_saved(path: Path) -> bool:
    """Tell whether `Dataset.save_to_disk` wrote a folder."""
    return (path / "state.json").is_file()


def format_of(path: Path) -> str | None:
    """Return a file's format as the ending that stands for it, `SAVED` for a saved folder, or None for neither."""
    if path.is_dir():
        return SAVED if is_saved(path) else None
    end = ending(path)
    is_compressed = path.suffix.lower() in COMPRESSIONS
    if end not in _READERS or (is_compressed and end in _NOT_COMPRESSED):
        return None
    return ".jsonl" if end == ".ndjson" else end


def check_formats(paths: Iterable[Path]) -> None:
    """Reject a file, or a folder, that has none of the formats.

    Raises:
        ValueError: The message has the formats.
    """
    for path in paths:
        if format_of(path) is None:
            raise ValueError(f"{path}: {EXPECTED}")


def check_downloaded(path: Path) -> None:
    """Reject a file whose content Git has not downloaded.

    Raises:
        ValueError: The message says what to do.
    """
    if path.is_dir():
        return
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(f"{path}: the file is a pointer of Git LFS, not the data; run `git lfs pull`")


def open_file(path: Path) -> Table:
    """Open a file of rows, or a saved folder.

    Raises:
        ValueError: It has no rows, is damaged, or is not what its name says.
    """
    return open_saved(path) if path.is_dir() else _READERS[ending(path)](path)
