"""Tables from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune.datasets._stream import StreamTable
from torchtune.datasets._tables import ArrowTable, Table

LoadOptions = dict[str, str | int | bool]
"""Options by name."""

LOAD_OPTIONS = ("name", "revision", "data_dir", "data_files", "cache_dir")
"""What of `datasets.load_dataset` a config may say, as text. No tokens: configs are written into run folders."""


@frozen
class Streaming:
    """How a source is streamed."""

    rows: int | None
    """How many of its rows are used; None: as many as it says it has."""


def streaming_in(load_options: LoadOptions) -> Streaming | None:
    """Read the options on streaming; None where it is not asked for.

    Raises:
        ValueError: one of them is of another kind, or stands without the other.
    """
    asked, rows = load_options.get("streaming", False), load_options.get("rows")
    if asked not in (True, False, "true", "false"):
        raise ValueError(f"load_options.streaming: expected true or false, got {asked!r}")
    is_streamed = asked in (True, "true")
    if rows is None:
        return Streaming(None) if is_streamed else None
    if isinstance(rows, bool) or not str(rows).isdecimal() or int(rows) < 1:
        raise ValueError(f"load_options.rows: expected a number above 0, got {rows!r}")
    if not is_streamed:
        raise ValueError("load_options.rows: is for streams; without streaming, say split='train[:1000]'")
    return Streaming(int(rows))


def load_hub_table(source: str, split: str, load_options: LoadOptions) -> Table:
    """Load one split of a data set of the hub, or of its copy in the local cache, or begin to stream it.

    Raises:
        FileNotFoundError: the hub has no such data set.
        ConnectionError: the hub cannot be reached, and there is no copy.
        ValueError: the data set has no such split, an option is unknown, or there are no rows.
    """
    known = (*LOAD_OPTIONS, "streaming", "rows")
    if unknown := [name for name in load_options if name not in known]:
        raise ValueError(f"load_options: expected {', '.join(known)}, got {', '.join(unknown)}")
    instead = "a local .json or .jsonl file with the same columns can be the source instead"
    if "/" not in source:  # `datasets` takes names such as `pandas` for its own loaders, which unpickle files
        raise FileNotFoundError(
            f"{source}: no such file; a data set on the hub is named owner/name; {instead}"
        )
    from datasets import load_dataset

    streaming = streaming_in(load_options)
    options: dict[str, Any] = {name: str(load_options[name]) for name in LOAD_OPTIONS if name in load_options}
    if streaming is not None:
        options["streaming"] = True
    try:
        table = load_dataset(source, split=split, **options)
    except ConnectionError as error:
        raise ConnectionError(
            f"{source}: the Hugging Face hub cannot be reached ({error}); {instead}"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source}: not on the Hugging Face hub ({error}); {instead}") from error
    except ValueError as error:
        raise ValueError(f"{source}: cannot be loaded: {error}") from error
    if streaming is not None:
        told = (table.info.splits or {}).get(split)
        return _stream_table(table, streaming, told.num_examples if told else None, source)
    if len(table) == 0:
        raise ValueError(f"{source}: the split {split!r} has no rows")
    return ArrowTable(table, source)


def stream_parquet(paths: Sequence[Path], streaming: Streaming, where: str) -> Table:
    """Stream Parquet files, one after the other.

    Raises:
        ValueError: one is damaged, or they have no rows.
    """
    import pyarrow.parquet
    from datasets import load_dataset

    numbers: dict[str, int] = {}
    for path in paths:
        try:
            numbers[str(path)] = pyarrow.parquet.read_metadata(path).num_rows
        except Exception as error:  # of whatever kind the library raises
            raise ValueError(f"{path} is damaged, or no Parquet file: {error}") from error
    files = [name for name, n in numbers.items() if n]  # `datasets` stops at a file without rows
    if not files:
        raise ValueError(f"{where}: there are no rows")
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    return _stream_table(stream, streaming, sum(numbers.values()), where)


def _stream_table(stream: Any, streaming: Streaming, told: int | None, where: str) -> Table:
    if streaming.rows is None and not told:
        raise ValueError(
            f"{where}: does not say how many rows it has; load_options.rows is to say how many make an epoch"
        )
    if streaming.rows is not None and told and streaming.rows > told:
        raise ValueError(f"load_options.rows: {where} has {told:,} rows, not {streaming.rows:,}")
    n_rows = streaming.rows or told
    assert n_rows is not None
    return StreamTable(stream, n_rows, where)
