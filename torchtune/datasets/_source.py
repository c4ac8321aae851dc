"""Open a config's source as a table of rows."""

import glob
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune.config import LocalPath
from torchtune.datasets._dataset_card import choose_config, read_configs
from torchtune.datasets._find_files import (
    DataFile,
    did_you_mean_source,
    files_in,
    matching_files,
    wildcard_part,
)
from torchtune.datasets._formats import SAVED, check_downloaded, check_formats, format_of, open_file
from torchtune.datasets._hub import LoadOptions, Streaming, load_hub_table, stream_parquet, streaming_in
from torchtune.datasets._splits import SplitPart, choose_files, families_in, family_of, parse_split, split_of
from torchtune.datasets._tables import RowList, Table, join

Source = LocalPath | list[dict[str, Any]]
"""A file, a folder, a pattern of files, the name of a dataset on the hub, or the rows themselves."""


@frozen
class OpenedSource:
    """A source that has already been opened, to detect its format."""

    table: Table


def open_data_source(
    source: Source | OpenedSource, split: str = "train", load_options: LoadOptions | None = None
) -> Table:
    """Open a source. Rows are read on demand.

    Text files are read by our own readers: the readers of `datasets` report neither row nor column in errors, copy each
    file into a cache first, and send usage statistics over the network.

    Args:
        source: A local file (.json, .jsonl, .ndjson: a list of objects or one object per line; .csv, .tsv: with column
            names in the first line; .txt: one row per line; these may be compressed: .gz, .zst, .bz2, .xz; .parquet;
            .arrow), a folder or a pattern (`data/*.jsonl`) of files of one format, a folder written by
            `Dataset.save_to_disk`, a clone of a repository of the hub, the name of a dataset on the Hugging Face hub,
            or a list of rows.
        split: A split, a range of its rows, or several of these: `validation`, `train[:1000]`, `train[10%:20%]`,
            `train+validation`. The split of a local file is inferred from its name or the name of one of its folders.
            A file that is itself the source, and files whose names indicate no split, belong to `train`.
        load_options: Further options for a dataset on the hub: name, revision, data_dir, data_files, cache_dir
            (arguments of `datasets.load_dataset`); `name` also selects a configuration of a clone. `streaming: true`
            reads the dataset, or local Parquet files, during the run, without a copy on disk; `rows` sets the number
            of rows to use.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: The source is empty or invalid, or an argument has no effect on it.
    """
    if isinstance(source, OpenedSource):
        return source.table
    options = load_options or {}
    if not isinstance(source, str):
        return _open_list(source, split, options)
    if not _is_local(source):
        return load_hub_table(source, split, options)
    unused = [name for name in options if name not in ("streaming", "rows", "name")]
    if "name" in options and not read_configs(Path(source).expanduser()):
        unused.append("name")
    if unused:
        raise ValueError(
            f"load_options: {', '.join(unused)} would have no effect on {source}, which is local"
        )
    parts = parse_split(split)
    name = str(options["name"]) if "name" in options else None
    files = {part.name: _files(source, part.name, name) for part in parts}
    for file in itertools.chain(*files.values()):
        check_downloaded(file.path)
    streaming = streaming_in(options)
    if streaming is not None:
        return _open_stream(source, parts, files, streaming)
    tables = {name: join([open_file(file.path) for file in members]) for name, members in files.items()}
    return join([part.select(tables[part.name]) for part in parts])


def _open_list(rows: Sequence[Any], split: str, options: LoadOptions) -> Table:
    if streaming_in(options) is not None:
        raise ValueError("load_options.streaming has no effect on a list of rows, which is already in memory")
    if options:
        raise ValueError(f"load_options: {', '.join(options)} would have no effect on a list of rows")
    parts = parse_split(split)
    for part in parts:
        if part.name != "train":
            raise ValueError(f"split: a list of rows has no split {part.name!r}, only 'train'")
    if not rows:
        raise ValueError("source: the list has no rows")
    table = RowList("source", rows)
    return join([part.select(table) for part in parts])


def _open_stream(
    source: str, parts: Sequence[SplitPart], files: dict[str, Sequence[DataFile]], streaming: Streaming
) -> Table:
    if any(format_of(file.path) != ".parquet" for members in files.values() for file in members):
        raise ValueError(
            f"load_options.streaming: only Parquet files can be streamed; remove this option, since {source} is"
            " always read row by row without a copy"
        )
    if not all(part.is_whole for part in parts):
        raise ValueError("load_options.streaming: a range of rows cannot be streamed; use load_options.rows")
    return stream_parquet([file.path for part in parts for file in files[part.name]], streaming, source)


def _files(source: str, split: str, config: str | None) -> Sequence[DataFile]:
    """Return the files of a split, all of one format, sorted by name.

    Raises:
        FileNotFoundError: There are no files.
        ValueError: The split of a file is unclear, or the files have several formats or an unknown format.
    """
    path = Path(source).expanduser()
    if path.is_file() or format_of(path) == SAVED:
        return [_single(path, split, source)]
    if path.is_dir():
        configs = read_configs(path)
        if configs:
            files = choose_config(configs, config, path).files(split)
        else:
            files = choose_files(files_in(path), split, str(path))
        subject, example = f"{path}: the folder", path
    elif glob.has_magic(source):
        files = _choose_matching(source, split)
        subject, example = f"{source}: the pattern", path.parent
    else:
        hint = did_you_mean_source(path) or f"paths are relative to {Path.cwd()}"
        raise FileNotFoundError(f"{path}: no such file; {hint}")
    formats = sorted({str(format_of(file.path)) for file in files})
    if len(formats) > 1:
        raise ValueError(
            f"{subject} has files of several formats ({', '.join(formats)}); select one with a file pattern, such as"
            f" source={example}/*{formats[0]}"
        )
    return files


def _single(path: Path, split: str, source: str) -> DataFile:
    """Return the file that is itself the source. It belongs to `train`, and to the split in its name."""
    check_formats([path])
    file = DataFile(path, path.name)
    if split != "train" and family_of(split) not in families_in(path.name) and split != split_of(file):
        raise ValueError(
            f"split: the local file {source} has no split {split!r}; use that split's file as the source"
        )
    return file


def _choose_matching(pattern: str, split: str) -> Sequence[DataFile]:
    """Return the files of a split that match a pattern. The pattern itself may name the split: `test-*.jsonl`."""
    files = matching_files(pattern)
    named_splits = families_in(wildcard_part(pattern))
    if (
        split == "train"
        and named_splits
        and "train" not in named_splits
        and {split_of(file) for file in files} <= named_splits
    ):
        return files
    return choose_files(files, split, pattern)


def _is_local(source: str) -> bool:
    """Return whether a source is a path, and not the name of a dataset on the hub, such as `owner/name`."""
    path = Path(source).expanduser()
    return (
        format_of(path) is not None
        or source.startswith((".", "/", "~"))
        or glob.has_magic(source)
        or path.exists()
    )
