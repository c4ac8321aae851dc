"""The order in which a run reads its items."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Self

from attrs import define, evolve, field

from torchtune._counted import counted
from torchtune.data._ahead import Ahead
from torchtune.data._arrangement import Arrangement, Document
from torchtune.data._batch import Batch
from torchtune.data._collate import collate
from torchtune.data._item import (
    NO_TARGET,
    Item,
    ItemT_co,
    LeftOut,
    LengthLimit,
    Unlearnable,
    kind_of,
    notes_of,
    truncate,
)
from torchtune.data._notes import Note, Tally
from torchtune.data._packing import Fit
from torchtune.data._rows import Rows, place_of, reported_of, spread
from torchtune.data._windows import Window, Windows, epoch_sizes

_logger = logging.getLogger(__name__)

_SAMPLED = 512
"""Rows that are encoded to estimate how many batches an epoch has."""
_LONG_ROWS = (
    "; prompts are longer than that: raise loading.packing.length, model.max_seq_len or the dataset's max_seq_len, or"
    " cut their beginnings (dataset.truncate=left)"
)


@define(eq=False, repr=False, slots=False)
class Batches(Iterator[Batch], Generic[ItemT_co]):
    """Endless batches of one rank, in an order that a seed fixes and that can be resumed anywhere.

    Rows give items of one kind: examples, pairs, or a class of your own (`Item`). An item is never split.

    The epochs form one endless stream. Each epoch is every row once, in an order drawn from the seed and the epoch's
    number (or as they come, if not shuffled). An optimizer step of `m` micro-batches takes the next
    `m * size * batch_size` rows off the stream, whichever rank they are for: 4 ranks, 2 ranks with two micro-batches
    each and 1 rank with four read the same rows in a step. No step reaches into the next epoch: the last step of an
    epoch has the rows that are left. All ranks get equally many micro-batches; a rank for which no row is left gets a
    filler, which is computed and counts for nothing (`Batch.is_filler`).

    Rows are encoded in windows of up to `window`, in which documents are packed or rows of like length brought
    together; memory is bounded by the window. What happens to rows (those that are left out or cut, and whatever else
    their notes say) is logged when it is first met, counted, and logged again with its totals at the end of each epoch.

    A position in the stream is a window and a row of it. Taking it up again costs encoding one window, not
    reading what went before, and may use another number of ranks or another batch size.

    Raises:
        ValueError: the dataset is empty, a number is out of its range, or rows give items of several kinds.
    """

    dataset: Rows[ItemT_co]
    """The rows, the same on all ranks."""
    batch_size: int
    """Rows in a batch of one rank."""
    shuffle: bool = field(kw_only=True)
    """Draw a new order for every epoch."""
    seed: int = field(kw_only=True)
    """What the orders are drawn from; the same on all ranks."""
    pad_id: int = field(kw_only=True)
    """What shorter rows are filled up with."""
    rank: int = field(default=0, kw_only=True)
    """Which of the ranks that share the data this is, from 0."""
    size: int = field(default=1, kw_only=True)
    """How many ranks share the data."""
    longest: int | None = field(default=None, kw_only=True)
    """Positions of a sequence, at most; a longer one is cut at its end. None: any number."""
    packed_length: int | None = field(default=None, kw_only=True)
    """Positions of a row that holds several items; a longer item is cut at its end. None: a row holds one item."""
    fit: Fit = field(default="best", kw_only=True)
    """How items are put into rows (`pack`)."""
    share_prefixes: bool = field(default=False, kw_only=True)
    """Put what all items of a row begin with into it once (`collate`)."""
    group_by_length: bool = field(default=False, kw_only=True)
    """Bring rows of like length together, where they are not packed."""
    window: int = field(default=1024, kw_only=True)
    """Rows that are encoded together."""
    workers: int = field(default=0, kw_only=True)
    """Processes that encode ahead; 0: none, rows are encoded when they are needed."""
    record: Callable[[dict[str, Any]], None] | None = field(default=None, kw_only=True)
    """Takes what happened to the rows of an epoch, as plain data, at its end and at the stream's."""
    logs: bool = field(default=True, kw_only=True)
    """Whether what happens to rows is logged; by rank 0 alone."""

    # The position: a window, the documents that waited for it, and how many of the rows of both are taken.
    _number: int = field(default=-1, init=False)
    _row: int = field(default=0, init=False)
    _waited: list[Document] = field(factory=list, init=False)
    # What they gave.
    _kind: type[Item] | None = field(default=None, init=False)
    _items: dict[Document, ItemT_co] = field(factory=dict, init=False)
    _rows: list[list[Document]] = field(factory=list, init=False)
    _waiting: list[Document] = field(factory=list, init=False)
    _sample: dict[int, list[int]] = field(factory=dict, init=False)
    # What happened to the rows of this epoch, how many there were and what they gave.
    _tally: Tally = field(factory=Tally, init=False)
    _n_seen: int = field(default=0, init=False)
    _n_given: int = field(default=0, init=False)
    _before: dict[str, int] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        n_rows = len(self.dataset)
        if n_rows == 0:
            raise ValueError("the dataset is empty; there is nothing to make batches of")
        for name in ("batch_size", "window", "packed_length", "longest"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}: expected an int above 0, got {number}")
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank: expected a number from 0 to {self.size - 1}, got {self.rank}")
        seed = self.seed if self.shuffle else None
        self._windows = Windows(self.dataset, seed, self.window)
        self._arrangement = Arrangement(self.packed_length, self.fit, self.group_by_length, seed)
        self._limit = LengthLimit(sequence=self.longest, item=self.packed_length)
        self._ahead = Ahead(self._windows, self.workers)
        self._ahead.begin(0)  # at once: its processes take seconds to import, as a model takes to load
        names = ("shuffle", "seed", "longest", "packed_length", "fit", "group_by_length")
        settings = {name: getattr(self, name) for name in names}
        self._stream = {"n_rows": n_rows, "window_size": self.window, **settings}
        self._told = set(reported_of(self.dataset))

    @property
    def epoch(self) -> int:
        """How many epochs are over."""
        return max(self._number + self.is_between_epochs, 0) // self._windows.per_epoch

    def steps_in(self, epochs: int, n_micro_batches: int = 1) -> int:
        """Count the optimizer steps that see every row this many times, from the start of the stream.

        The count is exact for up to 512 rows, and if rows are not packed and each gives one example. Otherwise it is
        estimated from 512 rows, evenly spaced over the dataset (of a stream: the first), which are encoded for it.

        Args:
            epochs: How often every row is read.
            n_micro_batches: Micro-batches of each rank in a step.

        Raises:
            ValueError: None of these rows has a target.
        """
        n = len(self.dataset)
        lengths = self._sampled_lengths()
        if n <= _SAMPLED:
            sizes = epoch_sizes(self._windows, self._arrangement, lengths, epochs)
        else:
            sizes = [-(-n * len(self._sampled_rows()) // _SAMPLED)] * epochs
        per_step = n_micro_batches * self.size * self.batch_size
        return sum(-(-size // per_step) for size in sizes)

    def padding_share(self) -> float:
        """Estimate the share of positions that is padding, from the rows that `steps_in` looks at.

        Raises:
            ValueError: None of these rows has a target.
        """
        rows = self._sampled_rows()
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        positions = sum(len(batch) * max(batch) for batch in batches)
        return 1 - sum(rows) / positions

    def _sampled_rows(self) -> list[int]:
        """Return how many positions the rows of batches take that are made of the sampled rows."""
        lengths = self._sampled_lengths()
        flat = {(row, i): length for row in lengths for i, length in enumerate(lengths[row])}
        rows, _ = self._arrangement.rows(flat, 0, is_last=True)
        return [sum(flat[document] for document in row) for row in rows]

    def _sampled_lengths(self) -> dict[int, list[int]]:
        """Encode up to 512 rows, once, and return the lengths of what each of them gives."""
        if not self._sample:
            sampled = Tally()
            self._sample = {row: self._lengths(row, sampled) for row in spread(self.dataset, _SAMPLED)}
            if not any(self._sample.values()):
                reasons, n = "; ".join(sampled.lines(len(self._sample))), len(self._sample)
                self._sample = {}
                raise ValueError(f"none of {counted(n, 'row')} gives anything to learn: {reasons}")
        return self._sample

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes that encode ahead, and record what happened to the rows so far."""
        self._ahead.close()
        self._record_totals()

    def __next__(self) -> Batch:
        """Return this rank's batch of a step of one micro-batch."""
        return self.next_step(1)[0]

    def next_step(self, n_micro_batches: int) -> list[Batch]:
        """Take the rows of the next optimizer step off the stream; the other ranks take theirs.

        Args:
            n_micro_batches: Micro-batches of each rank. The last step of an epoch may have fewer and smaller ones.

        Returns:
            This rank's micro-batches, as many as on every other rank.
        """
        per_micro_batch = self.size * self.batch_size
        rows = self._take(n_micro_batches * per_micro_batch)
        return [
            self._batch(rows[first : first + per_micro_batch])
            for first in range(0, len(rows), per_micro_batch)
        ]

    def _batch(self, rows: Sequence[list[tuple[Document, ItemT_co]]]) -> Batch:
        """Collate this rank's share of a micro-batch's rows: ranks have equally many, or one more or less."""
        first, end = (rank * len(rows) // self.size for rank in (self.rank, self.rank + 1))
        is_filler = first == end
        share = rows[:1] if is_filler else rows[first:end]
        items = [[item for _, item in row] for row in share]
        batch = collate(items, self.pad_id, share_prefixes=self.share_prefixes)
        if is_filler:
            return batch.as_filler()
        return evolve(batch, rows=tuple(self._windows.row(place) for row in share for (place, _), _ in row))

    def take(self, n: int) -> list[list[ItemT_co]]:
        """Take the next rows off the stream, whichever rank they are for, and whichever epochs they are of.

        Args:
            n: How many.

        Returns:
            The items of each.
        """
        rows: list[list[ItemT_co]] = []
        while len(rows) < n:
            rows += [[item for _, item in row] for row in self._take(n - len(rows))]
        return rows

    def _take(self, n: int) -> list[list[tuple[Document, ItemT_co]]]:
        """Take up to n rows of one epoch off the stream, and at least one."""
        rows: list[list[tuple[Document, ItemT_co]]] = []
        while len(rows) < n and not (rows and self.is_between_epochs):
            while self._row == len(self._rows):
                self._read_on()
            rows.append([(document, self._items[document]) for document in self._rows[self._row]])
            self._row += 1
            # Windows without a row are passed at once, so that it is known whether the epoch is over.
            while self._row == len(self._rows) and not self.is_between_epochs:
                self._read_on()
        return rows

    @property
    def is_between_epochs(self) -> bool:
        """Whether all rows of an epoch are taken, and none of the next."""
        return self._row == len(self._rows) and self._windows.ends_epoch(self._number)

    def state_dict(self) -> dict[str, Any]:
        """Give the position in the stream, and what the stream depends on."""
        places = [place for place, _ in self._waited]
        if self._number >= 0:
            window = self._windows.places(self._number)
            places += [window[0], window[-1]]
        return {
            "window": self._number,
            "row": self._row,
            "waited": [list(document) for document in self._waited],
            "bookmarks": self._windows.bookmarks(places),
            "tally": {**self._tally.state_dict(), "seen": self._n_seen, "given": self._n_given},
            **self._stream,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the stream up where another left it.

        Raises:
            ValueError: that stream was of another length, seed or kind of order.
        """
        now = self.state_dict()
        if set(state) != set(now):
            raise ValueError(f"expected the state of batches, {sorted(now)}, got {sorted(state)}")
        for name in self._stream:
            if state[name] != now[name]:
                raise ValueError(
                    f"the data cannot be resumed where the saved run left it: {name} was {state[name]}"
                    f" and is {now[name]} now"
                )
        if state["bookmarks"]:
            self._windows.add_bookmarks(state["bookmarks"])
            self._ahead.close()  # its processes were sent the dataset without them
            self._ahead = Ahead(self._windows, self.workers)
        self._tally.load_state_dict(state["tally"])
        self._told |= set(self._tally.rows)
        self._n_seen = state["tally"]["seen"]
        self._n_given = state["tally"]["given"]
        self._ahead.begin(max(state["window"], 0))
        self._number = state["window"]
        self._row = 0
        self._rows = []
        self._waiting = []
        if self._number >= 0:
            waited = [(int(place), int(i)) for place, i in state["waited"]]
            self._arrange({document: self._again(document) for document in waited}, self._number)
            self._row = state["row"]

    def _read_on(self) -> None:
        """Go to the next window."""
        number = self._number + 1
        waited = {document: self._items[document] for document in self._waiting}
        window, fitted = self._arrange(waited, number)
        self._number = number
        self._row = 0
        self._note(window, fitted)

    def _arrange(
        self, waited: dict[Document, ItemT_co], number: int
    ) -> tuple[Window[ItemT_co], dict[Document, ItemT_co | Unlearnable]]:
        """Make rows of a window, and of what waited for it; return the window, and its items at their final length."""
        window = self._ahead.read(number)
        self._windows.add_bookmarks(window.bookmarks)
        fitted = {document: truncate(item, self._limit) for document, item in window.items.items()}
        self._kind = kind_of(window.items.values(), self._kind)
        self._waited = list(waited)
        usable = {document: item for document, item in fitted.items() if not isinstance(item, Unlearnable)}
        self._items = {**waited, **usable}
        lengths = {document: item.length for document, item in self._items.items()}
        is_last = self._windows.ends_epoch(number)
        self._rows, self._waiting = self._arrangement.rows(lengths, number, is_last=is_last)
        return window, fitted

    def _again(self, document: Document) -> ItemT_co:
        """Encode an item once more."""
        place, i = document
        encoded = self._windows.encoded(self._windows.row(place))
        if not isinstance(encoded, LeftOut) and i < len(encoded):
            item = truncate(encoded[i], self._limit)
            if not isinstance(item, Unlearnable):
                return item
        raise ValueError("the data cannot be resumed where the saved run left them: they have changed")

    def _lengths(self, row: int, tally: Tally) -> list[int]:
        """Return how many positions of a row of a batch the items of a row of the dataset take."""
        encoded = self._windows.encoded(row)
        if isinstance(encoded, LeftOut):
            self._tell(tally, [encoded.note], encoded.place)
            return []
        self._kind = kind_of(encoded, self._kind)
        fitted = [truncate(item, self._limit) for item in encoded]
        notes = [note for pair in zip(encoded, fitted, strict=True) for note in notes_of(*pair)]
        self._tell(tally, notes, partial(place_of, self.dataset, row))
        return [item.length for item in fitted if not isinstance(item, Unlearnable)]

    def _tell(self, tally: Tally, notes: Iterable[Note], place: str | Callable[[], str]) -> None:
        """Count what happened to a row, and log what no row had before."""
        for text in tally.add(notes, place):
            if text not in self._told and self.logs and self.rank == 0:
                _logger.warning("rows %s; the first: %s", text, tally.first[text])
            self._told.add(text)

    def _note(self, window: Window[ItemT_co], fitted: Mapping[Document, ItemT_co | Unlearnable]) -> None:
        """Count what happened to a window's rows; at the end of an epoch, log it all."""
        for left_out in window.left_out:
            self._tell(self._tally, [left_out.note], left_out.place)
        of_rows: dict[int, list[Note]] = {}
        for (place, i), item in window.items.items():
            of_rows.setdefault(place, []).extend(notes_of(item, fitted[place, i]))
        for place, notes in of_rows.items():
            if notes:
                row = self._windows.row(place)
                self._tell(self._tally, notes, partial(place_of, self.dataset, row))
        self._n_given += len(self._rows) + len(self._waiting)
        self._n_seen += window.n_rows
        if self._windows.ends_epoch(self._number):
            self._end_epoch()

    def _end_epoch(self) -> None:
        lines = self._tally.lines(self._n_seen)
        if not self._n_given:
            raise ValueError(
                f"none of {counted(self._n_seen, 'row')} gives anything to learn: {'; '.join(lines)}"
                f"{_LONG_ROWS * any(NO_TARGET in line for line in lines)}"
            )
        if self.logs and self.rank == 0:
            epoch = self._number // self._windows.per_epoch + 1
            for line in lines if self._tally.rows != self._before else []:
                _logger.warning("epoch %d: %s", epoch, line)
        self._before = self._tally.rows
        self._record_totals()
        self._tally = Tally()
        self._n_seen = 0
        self._n_given = 0

    def _record_totals(self) -> None:
        if self.record is not None and self._n_seen:
            epoch = max(self._number, 0) // self._windows.per_epoch + 1
            self.record({"epoch": epoch, "rows": self._n_seen, "notes": self._tally.summary()})
