"""What a config calls a source, as a table of rows."""

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchtune.datasets._hub import LoadOptions, load_hub_table, stream_parquet, streaming_in
from torchtune.datasets._tables import (
    ArrowTable,
    Csv,
    Joined,
    JsonLines,
    Listed,
    Table,
    TextLines,
    read_json,
)

Source = str | list[dict[str, Any]]
"""A file, a folder, a pattern of files, the name of a data set on the hub, or the rows themselves."""


def open_source(source: Source, split: str = "train", load_options: LoadOptions | None = None) -> Table:
    """Look into a source; rows are read later.

    Text files are read by our own readers: those of `datasets` name neither row nor column, copy a file into a cache
    first, and count the use of its loaders over the network.

    Args:
        source: A local file (.json: a list of objects; .jsonl: an object a line; .csv, .tsv: with a first line of
            column names; .txt: a row a line; .parquet; .arrow), a folder or a pattern (`data/*.jsonl`) of files of one
            kind, a folder that `datasets` saved, the name of a data set on the Hugging Face hub, or a list of rows.
        split: Which split of a data set on the hub.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files, cache_dir (as
            `datasets.load_dataset` takes them). `streaming: true` reads it, or local Parquet files, as the run goes,
            with no copy on the disk; `rows` says how many rows of it are used.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: it holds no rows, is of another kind, or an argument has no meaning for it.
    """
    if isinstance(source, str) and not _is_local(source):
        return load_hub_table(source, split, load_options or {})
    what = source if isinstance(source, str) else "a list of rows"
    if split != "train":
        raise ValueError(
            f"split: {what} is local and has no split {split!r}; name that split's file as the source"
        )
    options = load_options or {}
    if useless := [name for name in options if name not in ("streaming", "rows")]:
        raise ValueError(f"load_options: {what} is local; {', '.join(useless)} would have no effect")
    streaming = streaming_in(options)
    if not isinstance(source, str):
        if streaming is not None:
            raise ValueError("load_options.streaming: a list of rows is in memory already")
        return Listed(source, "source")
    files = _files(source)
    if streaming is not None:
        if any(path.suffix.lower() != ".parquet" for path in files):
            raise ValueError(
                f"load_options.streaming: of local files, Parquet alone is streamed; {what} is read row by row anyway,"
                " without a copy"
            )
        return stream_parquet(files, streaming, source)
    tables = [_open(path) for path in files]
    return tables[0] if len(tables) == 1 else Joined(tables)


def _open(path: Path) -> Table:
    return _READERS[path.suffix.lower()](path) if path.is_file() else _saved(path)


def _files(source: str) -> Sequence[Path]:
    """Find the files that a path or pattern stands for, in the order of their names."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in _READERS:
            raise ValueError(f"{path}: {_EXPECTED}")
        return [path]
    if path.is_dir():
        if (path / "state.json").is_file():
            return [path]
        found = [p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in _READERS]
        where = f"{path}: the folder"
    elif glob.has_magic(source):
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207 - a Path takes no absolute pattern.
        where = f"{source}: the pattern"
        if other := sorted(p for p in found if p.suffix.lower() not in _READERS):
            raise ValueError(f"{other[0]}: {_EXPECTED}")
    else:
        raise FileNotFoundError(f"{path}: no such file; paths are looked up from {Path.cwd()}")
    if not found:
        raise FileNotFoundError(f"{where} has no files of rows in it ({', '.join(_READERS)})")
    if len(kinds := {p.suffix.lower() for p in found}) > 1:
        raise ValueError(
            f"{where} has files of several kinds ({', '.join(sorted(kinds))}); choose one by a pattern, such as"
            f" {path if path.is_dir() else path.parent}/*{min(kinds)}"
        )
    return sorted(found)


def _is_local(source: str) -> bool:
    """Tell a path from a name on the hub, which looks like `owner/name`."""
    path = Path(source).expanduser()
    return (
        path.suffix.lower() in _READERS
        or source.startswith((".", "/", "~"))
        or glob.has_magic(source)
        or path.exists()
    )


def _parquet(path: Path) -> Table:
    """Open a Parquet file; `datasets` writes it as an Arrow table into its cache first, once."""
    from datasets import Dataset

    return _arrow_table(path, lambda: Dataset.from_parquet(str(path)))


def _arrow(path: Path) -> Table:
    from datasets import Dataset

    return _arrow_table(path, lambda: Dataset.from_file(str(path)))


def _saved(path: Path) -> Table:
    """Open a folder that `Dataset.save_to_disk` wrote."""
    from datasets import load_from_disk

    return _arrow_table(path, lambda: load_from_disk(str(path)))


def _arrow_table(path: Path, read: Callable[[], Any]) -> Table:
    try:
        table = read()
        n = len(table)
    except Exception as error:  # of whatever kind the library raises
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(f"{path} is damaged, or no such file: {reason}") from error
    if n == 0:
        raise ValueError(f"{path}: the file has no rows")
    return ArrowTable(table, str(path))


_READERS: dict[str, Callable[[Path], Table]] = {
    ".json": read_json,
    ".jsonl": JsonLines,
    ".csv": Csv,
    ".tsv": Csv,
    ".txt": TextLines,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
_EXPECTED = (
    f"expected a file of rows ending in {', '.join(_READERS)}, a folder or a pattern of such files, or the name of a"
    " data set on the Hugging Face hub"
)
