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
    from datasets import Dataset

    return _open(path, lambda: Dataset.from_parquet(str(path)))


def open_arrow(path: Path) -> Table:
    """Open an Arrow file."""
    from datasets import Dataset

    with path.open("rb") as file:
        is_stream = file.read(len(_FILE_FORMAT)) != _FILE_FORMAT
    if is_stream:
        return _open(path, lambda: Dataset.from_file(str(path)))
    copy = TemporaryFile()
    return _open(path, lambda: _from_file_format(path, copy.path), copy)


def open_saved(path: Path) -> Table:
    """Open a folder that `Dataset.save_to_disk` wrote."""
    from datasets import load_from_disk

    return _open(path, lambda: load_from_disk(str(path)))


def _from_file_format(path: Path, copy: Path) -> Any:
    import pyarrow as pa
    from datasets import Dataset

    with (
        pa.memory_map(str(path)) as source,
        pa.ipc.open_file(source) as reader,
        pa.ipc.new_stream(str(copy), reader.schema) as writer,
    ):
        for i in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(i))
    return Dataset.from_file(str(copy))


def _open(path: Path, read: Callable[[], Any], copy: TemporaryFile | None = None) -> Table:
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
    return ArrowTable(table, str(path), copy)
