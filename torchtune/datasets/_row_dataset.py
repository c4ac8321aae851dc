"""What the datasets of rows have in common: which rows are used, and when they are encoded."""

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
    LeftOut,
    LengthLimit,
    Note,
    Side,
    Tally,
    Tokenizer,
    Unlearnable,
    shortened,
    truncate,
)
from torchtune.datasets._columns import ReadRow
from torchtune.datasets._hub import LoadOptions
from torchtune.datasets._source import Source, open_source
from torchtune.datasets._stream import Bookmark, StreamTable
from torchtune.datasets._tables import Row, RowError, Table
from torchtune.datasets._token_cache import TokenCache

_logger = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")
Encoded = TypeVar("Encoded")
"""What a row gives: an item, or a list of them."""
OnError = Literal["raise", "skip"]
Truncate = Literal["right", "left", "drop"]

_NOT_ENCODED = {
    *("tokenizer", "source", "split", "load_options", "on_error", "ignore_columns"),
    *("reported", "_table", "_ignored", "_cache"),
}
"""Fields that say which rows there are and not what becomes of one; the tokenizer has a fingerprint of its own."""

CHECKED_ROWS = 20_000
"""How many rows are looked at when a dataset is made: about half a second's work."""


@define(eq=False, repr=False, slots=False)
class RowDataset(Dataset[Encoded | LeftOut], Generic[Parsed, Encoded]):
    """Encodes rows when they are asked for.

    Encoding a row takes about a millisecond, a step of training hundreds of them; done ahead, it
    would make every start wait, and every rank hold the whole set in memory. What can be wrong is looked for
    at construction nevertheless: the first 20,000 rows are checked as text, and the first one is encoded.

    A subclass names the class of its items (`item_type`), says how a row is read (`_parse`, cheap) and how that is
    encoded (`_encode`), and checks its own settings before it calls this class's `__attrs_post_init__`.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ConnectionError: the hub cannot be reached.
        ValueError: no row is left, one cannot be used, the rows are of another kind, or the first one cannot be
            encoded.
    """

    is_plain_text: ClassVar[bool] = False
    """Whether examples are text without prompts, so that every token is meant to be a target."""
    item_type: ClassVar[type[Item]] = Example
    """The class of the items."""

    tokenizer: Tokenizer
    """Encodes the rows; the recipe passes it."""
    source: Source
    """The rows: a local file (.json, .jsonl, .csv, .tsv, .parquet, .arrow), a folder or a pattern of such files, the
    name of a data set on the Hugging Face hub, or a list of rows."""
    split: str = field(default="train", kw_only=True)
    """Which split of a folder, or of a data set on the hub."""
    load_options: LoadOptions | None = field(default=None, kw_only=True)
    """What else a data set on the hub needs: name, revision, data_dir, data_files, cache_dir (as
    `datasets.load_dataset` takes them). `streaming: true` reads it, or local Parquet files, as the run goes, with no
    copy on the disk; `rows` says how many rows of it make an epoch."""
    max_seq_len: int | None = field(default=None, kw_only=True)
    """Longest example in tokens; null: any length."""
    truncate: Truncate = field(default="right", kw_only=True)
    """Where a longer one is cut: at its "right" or "left" end; "drop" leaves it out, as is one of which no target
    remains."""
    on_error: OnError = field(default="raise", kw_only=True)
    """What becomes of a row that cannot be used: "raise" an error, or "skip" it, counted."""
    ignore_columns: list[str] | None = field(default=None, kw_only=True)
    """Columns that are known not to be read, and are not reported."""
    reported: frozenset[str] = field(default=frozenset(), init=False)
    """The texts of the notes that were logged when the first rows were checked."""
    _table: Table = field(init=False)
    _ignored: frozenset[str] = field(init=False)
    _cache: TokenCache | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Open the rows, and check them."""
        self._table = open_source(self.source, self.split, self.load_options)
        if self.max_seq_len is not None and self.max_seq_len < 2:
            raise ValueError(f"max_seq_len: expected an int above 1, or null, got {self.max_seq_len}")
        self._ignored = frozenset(self.ignore_columns or ())
        self._check()

    def __len__(self) -> int:
        """Count the rows, those that give no example among them."""
        return len(self._table)

    def __getitem__(self, index: int, /) -> Encoded | LeftOut:
        """Encode a row.

        Returns:
            What is to be learnt, or why there is nothing.

        Raises:
            RowError: the row cannot be used; not with `on_error="skip"`.
        """
        if index >= len(self):
            raise IndexError(index)
        try:
            parsed, row = self._parsed(index)
            if isinstance(parsed, LeftOut):
                return parsed
            encoded = self._encode(parsed) if self._cache is None else self._cached(parsed, self._cache)
            if isinstance(encoded, Unlearnable):
                return LeftOut(encoded.reason, self.place(index))
            notes = self._notes(row)
            return self._noted(encoded, notes) if notes else encoded
        except RowError as error:
            return self._unusable(error)
        except ValueError as error:  # the chat template's, or the tokenizer's
            return self._unusable(RowError(f"{self.place(index)}: {error}"))

    def place(self, index: int) -> str:
        """Say where a row stands, such as `rows.jsonl: line 3`."""
        return self._table.place(index)

    @property
    def block(self) -> int | None:
        """How many rows are in memory together, where rows are streamed in their order; None: any is read at once."""
        return self._table.block if isinstance(self._table, StreamTable) else None

    def bookmark(self, row: int) -> dict[int, Bookmark]:
        """Return what finds a row of a stream again (`StreamTable.bookmark`)."""
        return self._table.bookmark(row) if isinstance(self._table, StreamTable) else {}

    def add_bookmarks(self, bookmarks: dict[int, Bookmark]) -> None:
        """Take what `bookmark` gave, here or in another process."""
        if isinstance(self._table, StreamTable):
            self._table.add_bookmarks(bookmarks)

    def use_cache(self, folder: str) -> None:
        """Keep encoded rows on the disk, and take them from there.

        Args:
            folder: Made if need be; any number of datasets, runs and processes may share one.

        Raises:
            OSError: the folder cannot be made.
        """
        fingerprint = getattr(self.tokenizer, "fingerprint", None)
        if fingerprint is None:
            _logger.warning(
                "rows are not cached: %s does not say what it depends on", type(self.tokenizer).__name__
            )
            return
        settings = {f.name: getattr(self, f.name) for f in fields(type(self)) if f.name not in _NOT_ENCODED}
        versions = [
            f"{name} {version(name)}" for name in ("torchtune", "tokenizers", "sentencepiece", "jinja2")
        ]
        meaning = f"{type(self).__qualname__} {settings!r} {fingerprint()} {versions}"
        self._cache = TokenCache(Path(folder), meaning, self.item_type)

    def _cached(self, parsed: Parsed, cache: TokenCache) -> Encoded | Unlearnable:
        """Take what was encoded before, or encode and keep it."""
        row = repr(parsed)
        cached = cache.get(row)
        if cached is not None:
            return cast("Encoded", cached)
        encoded = self._encode(parsed)
        if not isinstance(encoded, Unlearnable):
            try:
                cache.put(row, cast("Item | list[Item]", encoded))
            except OSError as error:
                _logger.warning("rows are not cached any more: %s", error)
                self._cache = None
        return encoded

    @abstractmethod
    def _parse(self, row: Row) -> Parsed | Unlearnable:
        """Read what is needed out of a row, or say that there is nothing to learn in it.

        Raises:
            ValueError: a column is missing or holds something else; the message does not say where.
        """

    @abstractmethod
    def _encode(self, parsed: Parsed, /) -> Encoded | Unlearnable:
        """Encode what was read, or say that nothing of it is left to learn."""

    def _parsed(self, index: int) -> tuple[Parsed | LeftOut, ReadRow]:
        """Read what is needed out of a row; the row then knows what was not."""
        row = ReadRow(self._table[index])
        try:
            parsed = self._parse(row)
        except ValueError as error:
            raise RowError(f"{self.place(index)}: {error}") from error
        return (LeftOut(parsed.reason, self.place(index)) if isinstance(parsed, Unlearnable) else parsed), row

    def _notes(self, row: ReadRow) -> list[Note]:
        """Tell which columns of a row were not read."""
        unread = [name for name in row.unread() if name not in self._ignored]
        if not unread:
            return []
        what = "a column that is" if len(unread) == 1 else "columns that are"
        names = ", ".join(map(repr, unread))
        return [
            Note(f"have {what} not read: {names}", f"{unread[0]}={shortened(str(dict.get(row, unread[0])))}")
        ]

    def _noted(self, encoded: Encoded, notes: Sequence[Note]) -> Encoded:
        """Add notes to the first item of a row."""
        if isinstance(encoded, Item):
            return encoded.with_notes(notes)
        first, *others = cast("list[Item]", encoded)
        return cast("Encoded", [first.with_notes(notes), *others])

    def _fitted(self, item: ItemT) -> ItemT | Unlearnable:
        """Cut an item of which a sequence is too long, as `truncate` says."""
        n = self.max_seq_len
        if n is None:
            return item
        side: Side = "left" if self.truncate == "left" else "right"
        limit = LengthLimit(sequence=n - 1, side=side, tokens=n, setting="max_seq_len=")
        if self.truncate == "drop" and not limit.admits(item):
            return Unlearnable(f"are longer than {n} tokens")
        return truncate(item, limit)

    def _unusable(self, error: RowError) -> LeftOut:
        if self.on_error == "raise":
            raise error
        return LeftOut("cannot be used", str(error))

    def _check(self) -> None:
        """Look at the first rows, say what is not used of them, and encode one."""
        n = min(len(self), CHECKED_ROWS if self.block is None else self.block)
        left_out: dict[str, list[str]] = defaultdict(list)
        unread = Tally()
        unknown = set(self._ignored)
        first: int | None = None
        for i in range(n):
            try:
                parsed, row = self._parsed(i)
            except RowError as error:
                parsed = self._unusable(error)
            if isinstance(parsed, LeftOut):
                left_out[parsed.reason].append(parsed.place)
                continue
            if unknown:
                unknown -= row.keys()
            notes = self._notes(row)
            if notes:
                unread.add(notes, partial(self.place, i))
                self._check_kind(i, row)
            first = i if first is None else first
        for line in (*Tally.of_left_out(left_out).lines(n), *unread.lines(n)):
            _logger.warning("%s", line)
        self.reported = frozenset(unread.rows)
        if first is None and n == len(self):
            reason, places = max(left_out.items(), key=lambda item: len(item[1]))
            raise ValueError(
                f"{places[0]}: no row can be learnt from: {len(places)} of {n} {reason}"
                + (f" {_columns(self._table)}" if reason == "cannot be used" else "")
            )
        if unknown:
            raise ValueError(
                f"ignore_columns: no row has a column {min(unknown)!r}, so that naming it has no effect"
                f" {_columns(self._table)}"
            )
        if first is not None:
            self[first]

    def _check_kind(self, index: int, row: ReadRow) -> None:
        """Refuse rows for preference tuning that would be read as good answers.

        Raises:
            ValueError: a row has a label or a rejected answer that is not read.
        """
        unread = set(row.unread()) - self._ignored
        fix = "if they are to be learnt all the same, name the columns that are not read in dataset.ignore_columns"
        if "label" in unread and isinstance(dict.get(row, "label"), bool):
            raise ValueError(
                f"{self.place(index)}: the rows have a column 'label' of true or false, as those for KTO have, so that"
                f" answers marked as bad would be learnt as good ones; {fix}"
            )
        if {"chosen", "rejected"} <= unread:
            raise ValueError(
                f"{self.place(index)}: the rows have columns 'chosen' and 'rejected', as those for preference tuning"
                f" have, which {type(self).__name__} does not read; {fix}"
            )


def _columns(table: Table) -> str:
    try:
        return f"(the first row's columns are {', '.join(table[0]) or 'none'})"
    except RowError:
        return "(the first row cannot be read at all)"
