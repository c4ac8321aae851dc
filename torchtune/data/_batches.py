"""Endless, resumable batches of one rank."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Self

from attrs import define, evolve, field

from torchtune._pluralize import pluralize
from torchtune.data._arrangement import Arrangement, Document
from torchtune.data._batch import Batch
from torchtune.data._collate import collate
from torchtune.data._epoch_notes import EpochNotes
from torchtune.data._item import (
    Item,
    ItemT_co,
    LengthLimit,
    SkippedRow,
    SkipReason,
    common_type,
    notes_of,
    truncate,
)
from torchtune.data._notes import Note, NoteCounts
from torchtune.data._packing import Fit
from torchtune.data._prefetch import Prefetcher
from torchtune.data._rows import Rows, location_of, logged_notes, sample_indices
from torchtune.data._widths import FixedWidths
from torchtune.data._windows import Window, Windows, epoch_sizes

_SAMPLE_SIZE = 512
"""Number of rows that are encoded to estimate the number of batches in an epoch."""


@define(eq=False, repr=False, slots=False)
class Batches(Iterator[Batch], Generic[ItemT_co]):
    """Endless batches of one rank, in an order that the seed determines, resumable at any point.

    All rows of the dataset yield items of one type: examples, pairs, or a custom class (`Item`). Items are never split.

    The epochs form one endless stream. Each epoch contains every row once, in an order drawn from the seed and the
    epoch index (or in dataset order, if not shuffled). An optimizer step of `m` micro-batches reads the next
    `m * size * batch_size` batch rows from the stream, for all ranks together: 4 ranks, 2 ranks with two micro-batches
    each and 1 rank with four read the same rows in a step. A step never crosses into the next epoch: the last step of
    an epoch has the remaining rows. All ranks get the same number of micro-batches; a rank without rows gets a filler,
    which is computed but has no effect on the loss (`Batch.is_filler`).

    Rows are encoded, then packed or grouped by length, in packing windows of up to `window` rows, which bounds the
    memory. Notes on rows (skipped, truncated and so on) are counted; each is logged when it first occurs, and with its
    total at the end of each epoch.

    A position in the stream is a window and a batch row in it. Resuming encodes only that window, not earlier ones,
    and may use a different number of ranks or a different batch size.

    Raises:
        ValueError: the dataset is empty, an argument is out of range, or rows yield items of different types.
    """

    dataset: Rows[ItemT_co]
    """The rows, the same on all ranks."""
    batch_size: int
    """Number of batch rows per rank and micro-batch."""
    shuffle: bool = field(kw_only=True)
    """Draw a new order for every epoch."""
    seed: int = field(kw_only=True)
    """Seed of the orders; the same on all ranks."""
    pad_id: int = field(kw_only=True)
    """Id that pads shorter batch rows."""
    rank: int = field(default=0, kw_only=True)
    """Index of this rank among the ranks that share the data."""
    size: int = field(default=1, kw_only=True)
    """Number of ranks that share the data."""
    longest: int | None = field(default=None, kw_only=True)
    """Maximum length of a sequence (positions); a longer one is truncated on the right. None: no limit."""
    packed_length: int | None = field(default=None, kw_only=True)
    """Length of a pack (positions); a longer item is truncated on the right. None: each batch row contains one item."""
    fit: Fit = field(default="best", kw_only=True)
    """The packing method for items (`pack`)."""
    share_prefixes: bool = field(default=False, kw_only=True)
    """Store the common prefix of all items of a pack once (`collate`)."""
    group_by_length: bool = field(default=False, kw_only=True)
    """Group rows of similar length, if they are not packed."""
    fixed_widths: bool = field(default=False, kw_only=True)
    """Pad batches to one of a few widths (`FixedWidths`), instead of to the widest row of the batch."""
    window: int = field(default=1024, kw_only=True)
    """Number of rows in a packing window."""
    workers: int = field(default=0, kw_only=True)
    """Number of worker processes that encode rows in advance; 0 encodes them in this process."""
    record: Callable[[dict[str, Any]], None] | None = field(default=None, kw_only=True)
    """Called with an epoch's note counts, as plain data, at the end of each epoch and of the stream."""
    logs: bool = field(default=True, kw_only=True)
    """Whether notes on rows are logged, by rank 0 only."""

    # The position: a window, the documents left over from earlier windows, and the number of rows taken from both.
    _window_index: int = field(default=-1, init=False)
    _row: int = field(default=0, init=False)
    _leftover: list[Document] = field(factory=list, init=False)
    # The contents of the window.
    _kind: type[Item] | None = field(default=None, init=False)
    _items: dict[Document, ItemT_co] = field(factory=dict, init=False)
    _rows: list[list[Document]] = field(factory=list, init=False)
    _waiting: list[Document] = field(factory=list, init=False)
    _sample: dict[int, list[int]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        n_rows = len(self.dataset)
        if n_rows == 0:
            raise ValueError("the dataset is empty; batches need at least one row")
        for name in ("batch_size", "window", "packed_length", "longest"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected an int above 0, got {value}")
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank: expected an int from 0 to {self.size - 1}, got {self.rank}")
        seed = self.seed if self.shuffle else None
        self._windows = Windows(self.dataset, seed, self.window)
        self._arrangement = Arrangement(self.packed_length, self.fit, self.group_by_length, seed)
        self._widths = FixedWidths(self.packed_length, self.longest) if self.fixed_widths else None
        self._limit = LengthLimit(sequence=self.longest, item=self.packed_length)
        self._prefetcher = Prefetcher(self._windows, self.workers)
        self._prefetcher.begin(0)  # early: workers take seconds to start, during which the model is loaded
        names = ("shuffle", "seed", "longest", "packed_length", "fit", "group_by_length")
        settings = {name: getattr(self, name) for name in names}
        self._stream = {"n_rows": n_rows, "window_size": self.window, **settings}
        logs = self.logs and self.rank == 0
        self._notes = EpochNotes(logs, self.record, set(logged_notes(self.dataset)))

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return max(self._window_index + self.is_between_epochs, 0) // self._windows.per_epoch

    def steps_in(self, epochs: int, n_micro_batches: int = 1) -> int:
        """Count the optimizer steps of a number of epochs, from the start of the stream.

        The count is exact for datasets of up to 512 rows, and for rows that are not packed and yield one example each.
        Otherwise, 512 rows, evenly spaced over the dataset (the first rows of a stream), are encoded to estimate it.

        Args:
            epochs: Number of epochs.
            n_micro_batches: Number of micro-batches per rank and step.

        Raises:
            ValueError: No row of the sample has a target.
        """
        n = len(self.dataset)
        lengths = self._sampled_lengths()
        if n <= _SAMPLE_SIZE:
            sizes = epoch_sizes(self._windows, self._arrangement, lengths, epochs)
        else:
            sizes = [-(-n * len(self._sampled_rows()) // _SAMPLE_SIZE)] * epochs
        per_step = n_micro_batches * self.size * self.batch_size
        return sum(-(-size // per_step) for size in sizes)

    def padding_fraction(self) -> float:
        """Estimate the fraction of positions that are padding, from the rows that `steps_in` encodes.

        Raises:
            ValueError: No row of the sample has a target.
        """
        rows = self._sampled_rows()
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        widths = [max(batch) for batch in batches]
        if self._widths is not None:
            widths = [self._widths.padded_width(width) for width in widths]
        positions = sum(len(batch) * width for batch, width in zip(batches, widths, strict=True))
        return 1 - sum(rows) / positions

    def _sampled_rows(self) -> list[int]:
        """Return the number of positions used in each batch row built from the sampled rows."""
        lengths = self._sampled_lengths()
        flat = {(row, i): length for row in lengths for i, length in enumerate(lengths[row])}
        rows, _ = self._arrangement.rows(flat, 0, is_last=True)
        return [sum(flat[document] for document in row) for row in rows]

    def _sampled_lengths(self) -> dict[int, list[int]]:
        """Encode up to 512 rows, once, and return the lengths of each row's items."""
        if not self._sample:
            counts = NoteCounts()
            self._sample = {
                row: self._lengths(row, counts) for row in sample_indices(self.dataset, _SAMPLE_SIZE)
            }
            if not any(self._sample.values()):
                reasons, n = "; ".join(counts.lines(len(self._sample))), len(self._sample)
                self._sample = {}
                raise ValueError(f"no row has a target ({pluralize(n, 'row')}): {reasons}")
        return self._sample

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers, and record the note counts of the current epoch."""
        self._prefetcher.close()
        self._notes.record(self._current_epoch)

    def __next__(self) -> Batch:
        """Return this rank's batch of the next optimizer step, for steps of a single micro-batch."""
        return self.next_step(1)[0]

    def next_step(self, n_micro_batches: int) -> list[Batch]:
        """Return this rank's micro-batches of the next optimizer step, as many as on every other rank.

        Args:
            n_micro_batches: Number of micro-batches per rank; the last step of an epoch may have fewer.
        """
        per_micro_batch = self.size * self.batch_size
        rows = self._take(n_micro_batches * per_micro_batch)
        return [
            self._batch(rows[first : first + per_micro_batch])
            for first in range(0, len(rows), per_micro_batch)
        ]

    def _batch(self, rows: Sequence[list[tuple[Document, ItemT_co]]]) -> Batch:
        """Collate this rank's part of a micro-batch's rows; the parts of ranks differ in size by at most one row."""
        first, end = (rank * len(rows) // self.size for rank in (self.rank, self.rank + 1))
        is_filler = first == end
        own_rows = rows[:1] if is_filler else rows[first:end]
        items = [[item for _, item in row] for row in own_rows]
        batch = collate(items, self.pad_id, share_prefixes=self.share_prefixes)
        if self._widths is not None:
            batch = self._widths.pad(batch, self.pad_id)
        if is_filler:
            return batch.as_filler()
        return evolve(
            batch, rows=tuple(self._windows.row(position) for row in own_rows for (position, _), _ in row)
        )

    def take(self, n: int) -> list[list[ItemT_co]]:
        """Take the next n batch rows of all ranks from the stream, across epochs; return the items of each."""
        rows: list[list[ItemT_co]] = []
        while len(rows) < n:
            rows += [[item for _, item in row] for row in self._take(n - len(rows))]
        return rows

    def _take(self, n: int) -> list[list[tuple[Document, ItemT_co]]]:
        """Take at least one and up to n batch rows of one epoch from the stream."""
        rows: list[list[tuple[Document, ItemT_co]]] = []
        while len(rows) < n and not (rows and self.is_between_epochs):
            while self._row == len(self._rows):
                self._next_window()
            rows.append([(document, self._items[document]) for document in self._rows[self._row]])
            self._row += 1
            # Skip windows without rows immediately, to know whether the epoch is over.
            while self._row == len(self._rows) and not self.is_between_epochs:
                self._next_window()
        return rows

    @property
    def is_between_epochs(self) -> bool:
        """Whether all rows of an epoch have been taken, and no row of the next epoch."""
        return self._row == len(self._rows) and self._windows.ends_epoch(self._window_index)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream, and the settings that the stream depends on."""
        positions = [position for position, _ in self._leftover]
        if self._window_index >= 0:
            window = self._windows.positions(self._window_index)
            positions += [window[0], window[-1]]
        return {
            "window": self._window_index,
            "row": self._row,
            "waited": [list(document) for document in self._leftover],
            "bookmarks": self._windows.bookmarks(positions),
            "tally": self._notes.state_dict(),
            **self._stream,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the stream at a saved position.

        Raises:
            ValueError: the saved stream had a different length, seed or order.
        """
        current = self.state_dict()
        if set(state) != set(current):
            raise ValueError(
                f"expected a state of Batches with the keys {sorted(current)}, got {sorted(state)}"
            )
        for name in self._stream:
            if state[name] != current[name]:
                raise ValueError(
                    f"cannot resume reading the data: {name} was {state[name]} in the saved run and is"
                    f" {current[name]} now"
                )
        if state["bookmarks"]:
            self._windows.add_bookmarks(state["bookmarks"])
            self._prefetcher.close()  # its workers received the dataset without these bookmarks
            self._prefetcher = Prefetcher(self._windows, self.workers)
        self._notes.load_state_dict(state["tally"])
        self._prefetcher.begin(max(state["window"], 0))
        self._window_index = state["window"]
        self._row = 0
        self._rows = []
        self._waiting = []
        if self._window_index >= 0:
            leftover = [(int(position), int(i)) for position, i in state["waited"]]
            self._arrange({document: self._encode(document) for document in leftover}, self._window_index)
            self._row = state["row"]

    def _next_window(self) -> None:
        """Advance to the next window."""
        window_index = self._window_index + 1
        leftover = {document: self._items[document] for document in self._waiting}
        window, truncated = self._arrange(leftover, window_index)
        self._window_index = window_index
        self._row = 0
        self._count_notes(window, truncated)

    def _arrange(
        self, leftover: dict[Document, ItemT_co], window_index: int
    ) -> tuple[Window[ItemT_co], dict[Document, ItemT_co | SkipReason]]:
        """Arrange a window's documents and leftover ones into rows; return the window and its truncated items."""
        window = self._prefetcher.read(window_index)
        self._windows.add_bookmarks(window.bookmarks)
        truncated = {document: truncate(item, self._limit) for document, item in window.items.items()}
        self._kind = common_type(window.items.values(), self._kind)
        self._leftover = list(leftover)
        usable = {document: item for document, item in truncated.items() if not isinstance(item, SkipReason)}
        self._items = {**leftover, **usable}
        lengths = {document: item.length for document, item in self._items.items()}
        is_last = self._windows.ends_epoch(window_index)
        self._rows, self._waiting = self._arrangement.rows(lengths, window_index, is_last=is_last)
        return window, truncated

    def _encode(self, document: Document) -> ItemT_co:
        """Encode a single item."""
        position, i = document
        encoded = self._windows.encoded(self._windows.row(position))
        if not isinstance(encoded, SkippedRow) and i < len(encoded):
            item = truncate(encoded[i], self._limit)
            if not isinstance(item, SkipReason):
                return item
        raise ValueError("cannot resume reading the data: its rows have changed since the run was saved")

    def _lengths(self, row: int, counts: NoteCounts) -> list[int]:
        """Return the length of each item of a dataset row (positions)."""
        encoded = self._windows.encoded(row)
        if isinstance(encoded, SkippedRow):
            self._notes.add([encoded.note], encoded.location, counts)
            return []
        self._kind = common_type(encoded, self._kind)
        truncated = [truncate(item, self._limit) for item in encoded]
        notes = [note for pair in zip(encoded, truncated, strict=True) for note in notes_of(*pair)]
        self._notes.add(notes, partial(location_of, self.dataset, row), counts)
        return [item.length for item in truncated if not isinstance(item, SkipReason)]

    def _count_notes(
        self, window: Window[ItemT_co], truncated: Mapping[Document, ItemT_co | SkipReason]
    ) -> None:
        """Count the notes of a window's rows; at the end of an epoch, log the totals."""
        for skipped in window.skipped:
            self._notes.add([skipped.note], skipped.location)
        by_position: dict[int, list[Note]] = {}
        for (position, i), item in window.items.items():
            by_position.setdefault(position, []).extend(notes_of(item, truncated[position, i]))
        for position, notes in by_position.items():
            if notes:
                row = self._windows.row(position)
                self._notes.add(notes, partial(location_of, self.dataset, row))
        self._notes.n_batch_rows += len(self._rows) + len(self._waiting)
        self._notes.n_rows_read += window.n_rows
        if self._windows.ends_epoch(self._window_index):
            self._notes.end(self._current_epoch)

    @property
    def _current_epoch(self) -> int:
        """The epoch of the current window, counted from 1."""
        return max(self._window_index, 0) // self._windows.per_epoch + 1
