"""A source that a config names, opened as a table of rows."""

import glob
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from torchtune.config import LocalPath
from torchtune.datasets._dataset_card import choose_config, read_configs
from torchtune.datasets._find_files import (
    FoundFile,
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
"""A file, a folder, a pattern of files, the name of a data set on the hub, or the rows themselves."""


@frozen
class OpenedSource:
    """A source that was opened before, to look at its first row."""

    table: Table


def open_source(
    source: Source | OpenedSource, split: str = "train", load_options: LoadOptions | None = None
) -> Table:
    """Open a source; rows are read later.

    Text files are read by our own readers: those of `datasets` name neither row nor column, copy a file into a cache
    first, and count the use of its loaders over the network.

    Args:
        source: A local file (.json, .jsonl, .ndjson: a list of objects or an object on each line; .csv, .tsv: with a
            first line of column names; .txt: a row on each line; these also compressed, .gz, .zst, .bz2, .xz; .parquet;
            .arrow), a folder or a pattern (`data/*.jsonl`) of files of one kind, a folder that `datasets` saved, a
            clone of a repository of the hub, the name of a data set on the Hugging Face hub, or a list of rows.
        split: Which split, which range of its rows, or which of several: `validation`, `train[:1000]`,
            `train[10%:20%]`, `train+validation`. Of local files, names of files and folders tell which belong to it;
            one file, or files without such names, are read as `train` whatever they are called.
        load_options: What else a data set on the hub needs: name, revision, data_dir, data_files, cache_dir (as
            `datasets.load_dataset` takes them); `name` also chooses a configuration of a clone. `streaming: true` reads
            it, or local Parquet files, as the run goes, with no copy on the disk; `rows` says how many rows are used.

    Raises:
        FileNotFoundError: There is no such file or data set.
        ConnectionError: The hub cannot be reached.
        ValueError: It holds no rows, is of another kind, or an argument has no meaning for it.
    """
    if isinstance(source, OpenedSource):
        return source.table
    options = load_options or {}
    if not isinstance(source, str):
        return _open_list(source, split, options)
    if not _is_local(source):
        return load_hub_table(source, split, options)
    useless = [name for name in options if name not in ("streaming", "rows", "name")]
    if "name" in options and not read_configs(Path(source).expanduser()):
        useless.append("name")
    if useless:
        raise ValueError(f"load_options: {source} is local; {', '.join(useless)} would have no effect")
    parts = parse_split(split)
    name = str(options["name"]) if "name" in options else None
    files = {part.name: _files(source, part.name, name) for part in parts}
    for file in itertools.chain(*files.values()):
        check_downloaded(file.path)
    streaming = streaming_in(options)
    if streaming is not None:
        return _open_stream(source, parts, files, streaming)
    tables = {name: join([open_file(file.path) for file in members]) for name, members in files.items()}
    return join([part.of(tables[part.name]) for part in parts])


def _open_list(rows: Sequence[Any], split: str, options: LoadOptions) -> Table:
    if streaming_in(options) is not None:
        raise ValueError("load_options.streaming: a list of rows is in memory already")
    if options:
        raise ValueError(f"load_options: a list of rows is local; {', '.join(options)} would have no effect")
    parts = parse_split(split)
    for part in parts:
        if part.name != "train":
            raise ValueError(f"split: a list of rows has no split {part.name!r}, only 'train'")
    if not rows:
        raise ValueError("source: there are no rows")
    table = RowList("source", rows)
    return join([part.of(table) for part in parts])


def _open_stream(
    source: str, parts: Sequence[SplitPart], files: dict[str, Sequence[FoundFile]], streaming: Streaming
) -> Table:
    if any(format_of(file.path) != ".parquet" for found in files.values() for file in found):
        raise ValueError(
            f"load_options.streaming: of local files, only Parquet is streamed; {source} is read row by row anyway,"
            " without a copy"
        )
    if not all(part.is_whole for part in parts):
        raise ValueError("load_options.streaming: a range of rows cannot be streamed; use load_options.rows")
    return stream_parquet([file.path for part in parts for file in files[part.name]], streaming, source)


def _files(source: str, split: str, config: str | None) -> Sequence[FoundFile]:
    """Find the files of a split, all of one kind, in the order of their names.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They cannot be told from others, are of several kinds, or cannot be read.
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
        where, example = f"{path}: the folder", path
    elif glob.has_magic(source):
        files = _choose_matching(source, split)
        where, example = f"{source}: the pattern", path.parent
    else:
        hint = did_you_mean_source(path) or f"paths are looked up from {Path.cwd()}"
        raise FileNotFoundError(f"{path}: no such file; {hint}")
    kinds = sorted({str(format_of(file.path)) for file in files})
    if len(kinds) > 1:
        raise ValueError(
            f"{where} has files of several kinds ({', '.join(kinds)}); choose one by a pattern, such as"
            f" {example}/*{kinds[0]}"
        )
    return files


def _single(path: Path, split: str, source: str) -> FoundFile:
    """Return a file that the user named: it is `train` whatever it is called, and the split that its name tells."""
    check_formats([path])
    file = FoundFile(path, path.name)
    if split != "train" and family_of(split) not in families_in(path.name) and split != split_of(file):
        raise ValueError(
            f"split: {source} is local and has no split {split!r}; name that split's file as the source"
        )
    return file


def _choose_matching(pattern: str, split: str) -> Sequence[FoundFile]:
    """Choose files by a pattern; one such as `test-*.jsonl`, which itself names the split, needs no setting."""
    files = matching_files(pattern)
    asked = families_in(wildcard_part(pattern))
    if split == "train" and asked and "train" not in asked and {split_of(file) for file in files} <= asked:
        return files
    return choose_files(files, split, pattern)


def _is_local(source: str) -> bool:
    """Tell a path from a name on the hub, which looks like `owner/name`."""
    path = Path(source).expanduser()
    return (
        format_of(path) is not None
        or source.startswith((".", "/", "~"))
        or glob.has_magic(source)
        or path.exists()
    )
