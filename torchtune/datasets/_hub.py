"""Tables from the Hugging Face hub, and streamed tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune._pluralize import pluralize
from torchtune.datasets._find_files import did_you_mean_source
from torchtune.datasets._stream import StreamTable
from torchtune.datasets._tables import ArrowTable, Table

LoadOptions = dict[str, str | int | bool]
"""Options by name."""

LOAD_OPTIONS = ("name", "revision", "data_dir", "data_files", "cache_dir")
"""Options of `datasets.load_dataset` that a config may set. No access tokens: configs are written to run folders."""

_ALTERNATIVE = "or use a local .json or .jsonl file with the same columns as the source"


@frozen
class Streaming:
    """Options for streaming a source."""

    rows: int | None
    """Number of rows to use. None: the number of rows that the source declares."""


def streaming_in(load_options: LoadOptions) -> Streaming | None:
    """Return the options for streaming, or None if it is off.

    Raises:
        ValueError: An option has an invalid value, or `rows` is set without `streaming`.
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
        raise ValueError(
            "load_options.rows has an effect only with streaming; otherwise use split='train[:1000]'"
        )
    return Streaming(int(rows))


def load_hub_table(source: str, split: str, load_options: LoadOptions) -> Table:
    """Load a split of a dataset from the hub or from its copy in the local cache, or open it as a stream.

    Raises:
        FileNotFoundError: The dataset is not on the hub.
        ConnectionError: The hub cannot be reached, and there is no local copy.
        ValueError: The split does not exist, an option is unknown, or there are no rows.
    """
    known_names = (*LOAD_OPTIONS, "streaming", "rows")
    unknown = [name for name in load_options if name not in known_names]
    if unknown:
        raise ValueError(
            f"load_options: unknown option {', '.join(unknown)}; expected {', '.join(known_names)}"
        )
    if "/" not in source:  # `datasets` treats names such as `pandas` as its own loaders, which unpickle files
        hint = did_you_mean_source(source) or f"use owner/name for a dataset on the hub, {_ALTERNATIVE}"
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
    """Open Parquet files as one stream.

    Args:
        paths: The files, in order.
        streaming: Options for streaming.
        name: The name of the stream in messages.

    Raises:
        ValueError: A file is damaged, or the files have no rows.
    """
    import pyarrow.parquet as pq
    from datasets import load_dataset

    n_rows: dict[str, int] = {}
    for path in paths:
        try:
            n_rows[str(path)] = pq.read_metadata(path).num_rows
        except Exception as error:  # the library raises many types of exception
            raise ValueError(
                f"{path} cannot be read: it is damaged or not a Parquet file ({error}); copy or download it again"
            ) from error
    files = [file for file, n in n_rows.items() if n]  # `datasets` stops at a file without rows
    if not files:
        raise ValueError(f"{name}: the files have no rows")
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    return _stream_table(stream, streaming, sum(n_rows.values()), name)


def _load(source: str, split: str, options: dict[str, Any]) -> Any:
    """Call `datasets.load_dataset`; re-raise its errors with the source's name and a fix."""
    from datasets import load_dataset

    try:
        return load_dataset(source, split=split, **options)
    except ConnectionError as error:
        suggestion = did_you_mean_source(source)
        if suggestion:
            raise FileNotFoundError(
                f"{source}: no such file, and the hub cannot be reached; {suggestion}"
            ) from error
        raise ConnectionError(
            f"{source}: the Hugging Face hub cannot be reached ({error}); on a machine that can reach it, run"
            f" `hf download {source} --repo-type dataset --local-dir data/{source.rpartition('/')[2]}` and use that"
            " folder as the source (tune download is for models)"
        ) from error
    except FileNotFoundError as error:
        hint = did_you_mean_source(source) or f"correct the name, {_ALTERNATIVE}"
        raise FileNotFoundError(f"{source}: not on the Hugging Face hub ({error}); {hint}") from error
    except ValueError as error:
        raise ValueError(f"{source} cannot be loaded: {error}") from error


def _stream_table(stream: Any, streaming: Streaming, n_stated: int | None, name: str) -> Table:
    """Open a stream as a table.

    Args:
        stream: A `datasets.IterableDataset`.
        streaming: The number of rows to use.
        n_stated: Number of rows that the stream declares. None or 0: unknown.
        name: The name of the table in messages.

    Raises:
        ValueError: The number of rows is unknown, or smaller than `streaming.rows`.
    """
    n_rows = streaming.rows or n_stated
    if not n_rows:
        raise ValueError(
            f"{name}: the number of rows is unknown; set load_options.rows to the number of rows in an epoch"
        )
    if n_stated and n_rows > n_stated:
        raise ValueError(f"load_options.rows: {name} has only {pluralize(n_stated, 'row')}, got {n_rows:,}")
    return StreamTable(stream, n_rows, name)
