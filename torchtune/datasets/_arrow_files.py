"""Parquet and Arrow files, and folders that `datasets` saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchtune.datasets._compressed import TemporaryFile
from torchtune.datasets._tables import ArrowTable, Table

_FILE_FORMAT = b"ARROW1"
"""What a file of Arrow's file format begins with; `datasets` reads the stream format alone."""


def open_parquet(path: Path) -> Table:
    """Open a Parquet file; `datasets` writes it as an Arrow table into its cache first, once."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    def read() -> Any:
        is_empty = pq.read_metadata(path).num_rows == 0
        return () if is_empty else Dataset.from_parquet(str(path))

    return ArrowTable(str(path), _read(path, read))


def open_arrow(path: Path) -> Table:
    """Open an Arrow file."""
    from datasets import Dataset

    with path.open("rb") as file:
        if file.read(len(_FILE_FORMAT)) == _FILE_FORMAT:
            return _ConvertedTable(path)
    return ArrowTable(str(path), _read(path, lambda: Dataset.from_file(str(path))))


def open_saved(path: Path) -> Table:
    """Open a folder that `Dataset.save_to_disk` wrote."""
    from datasets import load_from_disk

    return ArrowTable(str(path), _read(path, lambda: load_from_disk(str(path))))


class _ConvertedTable(ArrowTable):
    """A file of Arrow's file format, converted into a temporary file; each process that unpickles it makes its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._copy = TemporaryFile()
        super().__init__(str(path), _read(path, lambda: _convert(path, self._copy.path)))

    def __reduce__(self) -> tuple[type["_ConvertedTable"], tuple[Path]]:
        return type(self), (self._path,)


def _convert(path: Path, target: Path) -> Any:
    import pyarrow as pa
    from datasets import Dataset

    with (
        pa.memory_map(str(path)) as source,
        pa.ipc.open_file(source) as reader,
        pa.ipc.new_stream(str(target), reader.schema) as writer,
    ):
        for i in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(i))
    return Dataset.from_file(str(target))


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """Read a table that is to have rows.

    Raises:
        ValueError: It is damaged, or has none.
    """
    try:
        table = read()
        n = len(table)
    except Exception as error:  # of whatever kind the library raises
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(
            f"{path} is damaged, or no such file: {reason}; copy or download it again"
        ) from error
    if n == 0:
        raise ValueError(f"{path}: the file has no rows")
    return table
