"""Which reader reads a file, by the ending of its name."""

from collections.abc import Callable
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


def open_file(path: Path) -> Table:
    """Open a file of rows, or a saved folder.

    Raises:
        ValueError: It has no rows, is damaged, or is not what its name says.
    """
    return open_saved(path) if path.is_dir() else _READERS[ending(path)](path)
