"""Parquet and Arrow files, and folders written by `Dataset.save_to_disk`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchtune.datasets._compressed import TemporaryFile
from torchtune.datasets._tables import ArrowTable, Table

_FILE_FORMAT = b"ARROW1"
"""The first bytes of a file in Arrow's file format; `datasets` reads only the stream format."""


def open_parquet(path: Path) -> Table:
    """Open a Parquet file. The first time, `datasets` converts it to an Arrow table in its cache."""
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
    """Open a folder written by `Dataset.save_to_disk`."""
    from datasets import load_from_disk

    return ArrowTable(str(path), _read(path, lambda: load_from_disk(str(path))))


class _ConvertedTable(ArrowTable):
    """A file in Arrow's file format, converted into a temporary file. Unpickling converts it again."""

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
    """Read a table that must have rows.

    Raises:
        ValueError: The file is damaged or has no rows.
    """
    try:
        table = read()
        n = len(table)
    except Exception as error:  # the libraries raise many types of exception
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read: it is damaged or not in the format that its name indicates ({reason});"
            " copy or download it again"
        ) from error
    if n == 0:
        raise ValueError(f"{path}: the file has no rows")
    return table
