"""Tables from the Hugging Face hub, and streams."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune._counted import counted
from torchtune.datasets._find_files import did_you_mean_source
from torchtune.datasets._stream import StreamTable
from torchtune.datasets._tables import ArrowTable, Table

LoadOptions = dict[str, str | int | bool]
"""Options by name."""

LOAD_OPTIONS = ("name", "revision", "data_dir", "data_files", "cache_dir")
"""Options of `datasets.load_dataset` that a config may set. No tokens: configs are written into run folders."""

_ALTERNATIVE = "a local .json or .jsonl file with the same columns can be the source instead"


@frozen
class Streaming:
    """How a source is streamed."""

    rows: int | None
    """How many of its rows are used; None: as many as it says it has."""


def streaming_in(load_options: LoadOptions) -> Streaming | None:
    """Read the options for streaming; None where it is not asked for.

    Raises:
        ValueError: An option has another type, or has no effect without the other.
    """
    streaming = load_options.get("streaming", False)
    rows = load_options.get("rows")
    if streaming not in (True, False, "true", "false"):
        raise ValueError(f"load_options.streaming: expected true or false, got {streaming!r}")
    is_streamed = streaming in (True, "true")
    if rows is None:
        return Streaming(None) if is_streamed else None
    if isinstance(rows, bool) or not str(rows).isdecimal() or int(rows) < 1:
        raise ValueError(f"load_options.rows: expected a number above 0, got {rows!r}")
    if not is_streamed:
        raise ValueError("load_options.rows: is for streams; without streaming, use split='train[:1000]'")
    return Streaming(int(rows))


def load_hub_table(source: str, split: str, load_options: LoadOptions) -> Table:
    """Load one split of a data set of the hub, or of its copy in the local cache, or begin to stream it.

    Raises:
        FileNotFoundError: The hub has no such data set.
        ConnectionError: The hub cannot be reached, and there is no copy.
        ValueError: The data set has no such split, an option is unknown, or there are no rows.
    """
    known = (*LOAD_OPTIONS, "streaming", "rows")
    unknown = [name for name in load_options if name not in known]
    if unknown:
        raise ValueError(f"load_options: expected {', '.join(known)}, got {', '.join(unknown)}")
    if "/" not in source:  # `datasets` takes names such as `pandas` for its own loaders, which unpickle files
        hint = did_you_mean_source(source) or f"a data set on the hub is named owner/name; {_ALTERNATIVE}"
        raise FileNotFoundError(f"{source}: no such file; {hint}")
    streaming = streaming_in(load_options)
    options: dict[str, Any] = {name: str(load_options[name]) for name in LOAD_OPTIONS if name in load_options}
    if streaming is not None:
        options["streaming"] = True
    table = _load(source, split, options)
    if streaming is not None:
        info = (table.info.splits or {}).get(split)
        return _stream_table(table, streaming, info.num_examples if info else None, source)
    if len(table) == 0:
        raise ValueError(f"{source}: the split {split!r} has no rows")
    return ArrowTable(source, table)


def stream_parquet(paths: Sequence[Path], streaming: Streaming, name: str) -> Table:
    """Stream Parquet files, one after the other.

    Args:
        paths: The files.
        streaming: How many of their rows are used.
        name: What they are called in messages.

    Raises:
        ValueError: A file is damaged, or they have no rows.
    """
    import pyarrow.parquet as pq
    from datasets import load_dataset

    n_rows: dict[str, int] = {}
    for path in paths:
        try:
            n_rows[str(path)] = pq.read_metadata(path).num_rows
        except Exception as error:  # of whatever kind the library raises
            raise ValueError(f"{path} is damaged, or no Parquet file: {error}") from error
    files = [file for file, n in n_rows.items() if n]  # `datasets` stops at a file without rows
    if not files:
        raise ValueError(f"{name}: there are no rows")
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    return _stream_table(stream, streaming, sum(n_rows.values()), name)


def _load(source: str, split: str, options: dict[str, Any]) -> Any:
    """Call `datasets.load_dataset`; its errors name the source and say what can be done."""
    from datasets import load_dataset

    try:
        return load_dataset(source, split=split, **options)
    except ConnectionError as error:
        near = did_you_mean_source(source)
        if near:
            raise FileNotFoundError(
                f"{source}: no such file, and the hub cannot be reached; {near}"
            ) from error
        raise ConnectionError(
            f"{source}: the Hugging Face hub cannot be reached ({error}); where it can be, `hf download {source}"
            f" --repo-type dataset --local-dir data/{source.rpartition('/')[2]}` fetches it, and that folder can be the"
            " source (tune download fetches models)"
        ) from error
    except FileNotFoundError as error:
        hint = did_you_mean_source(source) or _ALTERNATIVE
        raise FileNotFoundError(f"{source}: not on the Hugging Face hub ({error}); {hint}") from error
    except ValueError as error:
        raise ValueError(f"{source}: cannot be loaded: {error}") from error


def _stream_table(stream: Any, streaming: Streaming, n_stated: int | None, name: str) -> Table:
    """Open a stream as a table.

    Args:
        stream: A `datasets.IterableDataset`.
        streaming: How many of its rows are used.
        n_stated: How many rows it says it has; None or 0: it does not say.
        name: What it is called in messages.
    """
    n_rows = streaming.rows or n_stated
    if not n_rows:
        raise ValueError(
            f"{name}: does not say how many rows it has; load_options.rows is to say how many make an epoch"
        )
    if n_stated and n_rows > n_stated:
        raise ValueError(f"load_options.rows: {name} has {counted(n_stated, 'row')}, not {n_rows:,}")
    return StreamTable(stream, n_rows, name)
