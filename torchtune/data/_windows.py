"""A dataset as an endless stream of windows, each of some rows read and encoded together."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic

from attrs import define, field, frozen

from torchtune.data._arrangement import Arrangement, Document
from torchtune.data._item import ItemT, LeftOut, items_of
from torchtune.data._order import Order
from torchtune.data._rows import Rows, stream_of

_FIRST = 256
"""Rows of an epoch's first window, so that the first batch is there soon; each one after it has twice as many."""


@frozen
class Window(Generic[ItemT]):
    """What a window's rows gave."""

    n_rows: int
    items: dict[Document, ItemT]
    """In the order of the stream."""
    left_out: list[LeftOut]
    bookmarks: dict[int, Any]
    """What finds the rows again (`Windows.bookmarks`)."""


@define
class Windows(Generic[ItemT]):
    """The windows of all epochs by number; each epoch begins a new one.

    A dataset that is read in its order (`Streamed`) is shuffled within blocks of its rows.

    Args:
        dataset: The rows.
        seed: What every epoch's order is drawn from; None: the rows as they come.
        size: Rows of a window, at most.
    """

    dataset: Rows[ItemT]
    seed: int | None
    size: int
    _starts: list[int] = field(init=False)
    """The place in its epoch at which each window begins, and the end of the last."""
    _block: int | None = field(init=False)
    """How many rows of a stream are in memory together."""

    def __attrs_post_init__(self) -> None:
        stream = stream_of(self.dataset)
        self._block = None if stream is None else stream.block
        n = len(self.dataset)
        rows = min(_FIRST, self.size)
        self._starts = [0]
        while self._starts[-1] < n:
            self._starts.append(min(self._starts[-1] + rows, n))
            rows = min(2 * rows, self.size)

    @property
    def per_epoch(self) -> int:
        """How many there are in an epoch."""
        return len(self._starts) - 1

    def ends_epoch(self, number: int) -> bool:
        """Tell whether a window is the last of its epoch."""
        return (number + 1) % self.per_epoch == 0

    def places(self, number: int) -> range:
        """Return the places in the stream of a window's rows."""
        epoch, i = divmod(number, self.per_epoch)
        first = epoch * len(self.dataset)
        return range(first + self._starts[i], first + self._starts[i + 1])

    def row(self, place: int) -> int:
        """Return which row of the dataset stands at a place in the stream."""
        n = len(self.dataset)
        epoch, at = divmod(place, n)
        if self._block is None:
            return _order(n, self.seed, epoch)[at]
        number, at = divmod(at, self._block)
        first = number * self._block
        return first + _order(min(self._block, n - first), self.seed, f"{epoch}, block {number}")[at]

    def bookmarks(self, places: Iterable[int]) -> dict[int, Any]:
        """Return what finds the rows at some places of the stream again without reading all that is before them."""
        stream = stream_of(self.dataset)
        if stream is None:
            return {}
        rows = [self.row(place) for place in places]
        return {block: bookmark for row in rows for block, bookmark in stream.bookmark(row).items()}

    def add_bookmarks(self, bookmarks: dict[int, Any]) -> None:
        """Add what `bookmarks` returned, in this process or another."""
        stream = stream_of(self.dataset)
        if stream is not None:
            stream.add_bookmarks(bookmarks)

    def encoded(self, row: int) -> Sequence[ItemT] | LeftOut:
        """Encode a row of the dataset."""
        encoded = self.dataset[row]
        return encoded if isinstance(encoded, LeftOut) else items_of(encoded)

    def read(self, number: int) -> Window[ItemT]:
        """Encode a window's rows."""
        items: dict[Document, ItemT] = {}
        left_out: list[LeftOut] = []
        places = self.places(number)
        for place in places:
            encoded = self.encoded(self.row(place))
            if isinstance(encoded, LeftOut):
                left_out.append(encoded)
            else:
                items |= {(place, i): item for i, item in enumerate(encoded)}
        return Window(len(places), items, left_out, self.bookmarks((places[0], places[-1])))


_order = lru_cache(maxsize=4)(Order)


def epoch_sizes(
    windows: Windows[Any], arrangement: Arrangement, lengths: Mapping[int, list[int]], epochs: int
) -> list[int]:
    """Count the rows of batches in each epoch.

    Args:
        windows: Of the dataset.
        arrangement: How their documents become rows.
        lengths: What each row of the dataset gives, as the positions that it takes.
        epochs: How many are counted.
    """
    sizes = [0] * epochs
    documents: dict[Document, int] = {}
    for number in range(epochs * windows.per_epoch):
        for place in windows.places(number):
            documents |= {(place, i): n for i, n in enumerate(lengths[windows.row(place)])}
        rows, waiting = arrangement.rows(documents, number, is_last=windows.ends_epoch(number))
        sizes[number // windows.per_epoch] += len(rows)
        documents = {document: documents[document] for document in waiting}
    return sizes
