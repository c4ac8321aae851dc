"""The base class of datasets: it opens rows, checks them, and encodes them on demand."""

import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar, cast

from attrs import define, field, fields
from torch.utils.data import Dataset

from torchtune.data import (
    Example,
    Item,
    ItemT,
    LengthLimit,
    Note,
    NoteCounts,
    Side,
    SkippedRow,
    SkipReason,
    Tokenizer,
    quote_excerpt,
    truncate,
)
from torchtune.datasets._columns import TrackedRow
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._source import Source, open_data_source
from torchtune.datasets._stream import Bookmark, StreamTable
from torchtune.datasets._tables import Row, RowError, Table
from torchtune.datasets._token_cache import TokenCache

_logger = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")
Encoded = TypeVar("Encoded")
"""The encoded form of a row: an item, or a list of items."""
OnError = Literal["raise", "skip"]
Truncate = Literal["right", "left", "drop"]

_NO_EFFECT_ON_ENCODING = {
    *("tokenizer", "source", "split", "load_options", "on_error", "ignore_columns"),
    *("logged_notes", "_table", "_ignored", "_cache"),
}
"""Fields that select rows and do not affect how a row is encoded; the tokenizer has its own fingerprint."""

CHECKED_ROWS = 20_000
"""Number of rows that are parsed when a dataset is built; this takes about half a second."""


@define(eq=False, repr=False, slots=False)
class RowDataset(Dataset[Encoded | SkippedRow], Generic[Parsed, Encoded]):
    """A dataset that encodes rows on demand.

    Encoding a row takes about a millisecond, a training step hundreds of milliseconds. Encoding all rows in advance
    would delay every start and keep the whole dataset in the memory of every rank. Errors are still found at
    construction: the first 20,000 rows are parsed, and the first one is encoded.

    A subclass sets the class of its items (`item_type`), defines how a row is parsed (`_parse`, cheap) and how the
    result is encoded (`_encode`), and checks its settings before it calls `__attrs_post_init__` of this class.

    Raises:
        FileNotFoundError: The file or dataset does not exist.
        ConnectionError: The hub cannot be reached.
        ValueError: All rows are skipped, a row cannot be used, the rows are not in the format that the class
            reads, or the first row cannot be encoded.
    """

    is_plain_text: ClassVar[bool] = False
    """Whether examples are plain text without prompts, so that every token is meant to be a target."""
    item_type: ClassVar[type[Item]] = Example
    """The class of the items."""

    tokenizer: Tokenizer
    """Encodes the rows; the recipe passes it."""
    source: Source
    """The rows: a local file (.json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern of such files, the
    name of a dataset on the Hugging Face hub, or a list of rows."""
    split: str = field(default="train", kw_only=True)
    """The split of a folder or of a dataset on the hub."""
    load_options: LoadOptions | None = field(default=None, kw_only=True)
    """Further options for a dataset on the hub: name, revision, data_dir, data_files, cache_dir (arguments of
    `datasets.load_dataset`). `streaming: true` reads the dataset, or local Parquet files, during the run without a
    copy on disk; `rows` sets the number of rows in an epoch."""
    max_seq_len: int | None = field(default=None, kw_only=True)
    """Maximum length of an example (tokens); null: no limit."""
    truncate: Truncate = field(default="right", kw_only=True)
    """How to handle an example that is too long: truncate it on the "right" or "left", or "drop" it. An example that
    loses all its targets is skipped too."""
    on_error: OnError = field(default="raise", kw_only=True)
    """How to handle an invalid row: "raise" an error, or "skip" and count it."""
    ignore_columns: list[str] | None = field(default=None, kw_only=True)
    """Columns to ignore without reporting them as unused."""
    logged_notes: frozenset[str] = field(default=frozenset(), init=False)
    """The texts of the notes that were logged when the first rows were checked."""
    _table: Table = field(init=False)
    _ignored: frozenset[str] = field(init=False)
    _cache: TokenCache | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Open and check the rows."""
        self._table = open_data_source(self.source, self.split, self.load_options)
        if self.max_seq_len is not None and self.max_seq_len < 2:
            raise ValueError(f"max_seq_len: expected an int above 1, or null, got {self.max_seq_len}")
        self._ignored = frozenset(self.ignore_columns or ())
        self._check()

    def __len__(self) -> int:
        """Count the rows, including those that are skipped."""
        return len(self._table)

    def __getitem__(self, index: int, /) -> Encoded | SkippedRow:
        """Encode a row.

        Returns:
            The encoded row, or a `SkippedRow` with the reason.

        Raises:
            RowError: The row cannot be used, and `on_error` is "raise".
        """
        if index >= len(self):
            raise IndexError(index)
        try:
            parsed, row = self._parsed(index)
            if isinstance(parsed, SkippedRow):
                return parsed
            encoded = self._encode(parsed) if self._cache is None else self._cached(parsed, self._cache)
            if isinstance(encoded, SkipReason):
                return SkippedRow(encoded.reason, self.location(index))
            notes = self._notes(row)
            return self._add_notes(encoded, notes) if notes else encoded
        except RowError as error:
            return self._unusable(error)
        except ValueError as error:  # from the chat template or the tokenizer
            return self._unusable(RowError(f"{self.location(index)}: {error}"))

    def location(self, index: int) -> str:
        """Return a row's location, such as `rows.jsonl: line 3`."""
        return self._table.location(index)

    @property
    def block(self) -> int | None:
        """Number of rows of a stream in memory at a time. None: any row can be read directly."""
        return self._table.block if isinstance(self._table, StreamTable) else None

    def bookmark(self, row: int) -> dict[int, Bookmark]:
        """Return the bookmark of a row of a stream, if there is one (`StreamTable.bookmark`)."""
        return self._table.bookmark(row) if isinstance(self._table, StreamTable) else {}

    def add_bookmarks(self, bookmarks: dict[int, Bookmark]) -> None:
        """Add bookmarks that `bookmark` returned, possibly in a different process."""
        if isinstance(self._table, StreamTable):
            self._table.add_bookmarks(bookmarks)

    def use_cache(self, folder: str) -> None:
        """Cache encoded rows on disk.

        Args:
            folder: Created if needed. Any number of datasets, runs and processes may share it.

        Raises:
            OSError: The folder cannot be created.
        """
        fingerprint = getattr(self.tokenizer, "fingerprint", None)
        if fingerprint is None:
            _logger.warning(
                "rows are not cached: the tokenizer %s has no fingerprint method",
                type(self.tokenizer).__name__,
            )
            return
        settings = {
            f.name: getattr(self, f.name) for f in fields(type(self)) if f.name not in _NO_EFFECT_ON_ENCODING
        }
        versions = [
            f"{name} {version(name)}" for name in ("torchtune", "tokenizers", "sentencepiece", "jinja2")
        ]
        dependencies = f"{type(self).__qualname__} {settings!r} {fingerprint()} {versions}"
        self._cache = TokenCache(Path(folder), dependencies, self.item_type)

    def _cached(self, parsed: Parsed, cache: TokenCache) -> Encoded | SkipReason:
        """Return the cached encoding of a row, or encode and cache it."""
        row = repr(parsed)
        cached = cache.get(row)
        if cached is not None:
            return cast("Encoded", cached)
        encoded = self._encode(parsed)
        if not isinstance(encoded, SkipReason):
            try:
                cache.store(row, cast("Item | list[Item]", encoded))
            except OSError as error:
                _logger.warning("rows are no longer cached: %s", error)
                self._cache = None
        return encoded

    @abstractmethod
    def _parse(self, row: Row) -> Parsed | SkipReason:
        """Parse a row, or return the reason to skip it.

        Raises:
            ValueError: A column is missing or has the wrong type; the message does not contain the row's location.
        """

    @abstractmethod
    def _encode(self, parsed: Parsed, /) -> Encoded | SkipReason:
        """Encode a parsed row, or return the reason to skip it."""

    def _parsed(self, index: int) -> tuple[Parsed | SkippedRow, TrackedRow]:
        """Parse a row; also return the row object, which records the columns that `_parse` read."""
        row = TrackedRow(self._table[index])
        try:
            parsed = self._parse(row)
        except ValueError as error:
            raise RowError(f"{self.location(index)}: {error}") from error
        return (
            SkippedRow(parsed.reason, self.location(index)) if isinstance(parsed, SkipReason) else parsed
        ), row

    def _notes(self, row: TrackedRow) -> list[Note]:
        """Return a note about the columns of a row that were not read, if any."""
        unread = [name for name in row.unread() if name not in self._ignored]
        if not unread:
            return []
        columns = "an unused column" if len(unread) == 1 else "unused columns"
        names = ", ".join(map(repr, unread))
        return [
            Note(f"have {columns}: {names}", f"{unread[0]}={quote_excerpt(str(dict.get(row, unread[0])))}")
        ]

    def _add_notes(self, encoded: Encoded, notes: Sequence[Note]) -> Encoded:
        """Add notes to the first item of a row."""
        if isinstance(encoded, Item):
            return encoded.with_notes(notes)
        first, *others = cast("list[Item]", encoded)
        return cast("Encoded", [first.with_notes(notes), *others])

    def _truncate(self, item: ItemT) -> ItemT | SkipReason:
        """Truncate or skip an item with a sequence longer than `max_seq_len`, according to `truncate`."""
        n = self.max_seq_len
        if n is None:
            return item
        side: Side = "left" if self.truncate == "left" else "right"
        limit = LengthLimit(sequence=n - 1, side=side, tokens=n, setting="max_seq_len=")
        if self.truncate == "drop" and not limit.admits(item):
            return SkipReason(f"are longer than {n} tokens")
        return truncate(item, limit)

    def _unusable(self, error: RowError) -> SkippedRow:
        if self.on_error == "raise":
            raise error
        return SkippedRow("cannot be used", str(error))

    def _check(self) -> None:
        """Parse the first rows, log skipped rows and unused columns, and encode the first usable row."""
        n = min(len(self), CHECKED_ROWS if self.block is None else self.block)
        skipped: dict[str, list[str]] = defaultdict(list)
        unread = NoteCounts()
        unknown = set(self._ignored)
        first: int | None = None
        for i in range(n):
            try:
                parsed, row = self._parsed(i)
            except RowError as error:
                parsed = self._unusable(error)
            if isinstance(parsed, SkippedRow):
                skipped[parsed.reason].append(parsed.location)
                continue
            if unknown:
                unknown -= row.keys()
            notes = self._notes(row)
            if notes:
                unread.add(notes, partial(self.location, i))
                self._reject_preference_row(i, row)
            first = i if first is None else first
        for line in (*NoteCounts.from_skipped(skipped).lines(n), *unread.lines(n)):
            _logger.warning("%s", line)
        self.logged_notes = frozenset(unread.rows)
        if first is None and n == len(self):
            reason, locations = max(skipped.items(), key=lambda item: len(item[1]))
            raise ValueError(
                f"{locations[0]}: no row can be trained on: {len(locations)} of {n} {reason}"
                + (f" {_columns(self._table)}" if reason == "cannot be used" else "")
            )
        if unknown:
            raise ValueError(
                f"ignore_columns: no row has a column {min(unknown)!r}; remove it from the list"
                f" {_columns(self._table)}"
            )
        if first is not None:
            self[first]

    def _reject_preference_row(self, index: int, row: TrackedRow) -> None:
        """Reject a row of a preference dataset, whose rejected answers would be trained on as well.

        Raises:
            ValueError: The row has a label or a rejected answer that is not read.
        """
        unread = set(row.unread()) - self._ignored
        fix = "to train on the rows anyway, list the unused columns in dataset.ignore_columns"
        if "label" in unread and isinstance(dict.get(row, "label"), bool):
            raise ValueError(
                f"{self.location(index)}: the rows have a boolean column 'label', like data for KTO, so the"
                f" model would also learn the answers that are marked as bad; {fix}"
            )
        if {"chosen", "rejected"} <= unread:
            raise ValueError(
                f"{self.location(index)}: the rows have columns 'chosen' and 'rejected', like data for preference"
                f" tuning, which {type(self).__name__} does not read; {fix}"
            )


def _columns(table: Table) -> str:
    try:
        return f"(the first row's columns are {', '.join(table[0]) or 'none'})"
    except RowError:
        return "(the first row cannot be read)"
