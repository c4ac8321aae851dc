"""A dataset as an endless stream of packing windows, each of which is read and encoded as a unit."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic

from attrs import define, field, frozen

from torchtune.data._arrangement import Arrangement, Document
from torchtune.data._item import ItemT, SkippedRow, as_items
from torchtune.data._order import Order
from torchtune.data._rows import Rows, as_stream

_FIRST_SIZE = 256
"""Number of rows in an epoch's first window, which is small for a quick start; then it doubles up to `Windows.size`."""


@frozen
class Window(Generic[ItemT]):
    """An encoded window."""

    n_rows: int
    """Number of dataset rows in the window."""
    items: dict[Document, ItemT]
    """The items of the window, in stream order."""
    skipped: list[SkippedRow]
    bookmarks: dict[int, Any]
    """Bookmarks for reading the rows again (`Windows.bookmarks`)."""


@define
class Windows(Generic[ItemT]):
    """The windows of all epochs, by index; every epoch begins with a new window.

    A sequential dataset (`Streamed`) is shuffled within blocks of rows.

    Args:
        dataset: The dataset.
        seed: Seed of every epoch's order. None: dataset order.
        size: Maximum number of rows in a window.
    """

    dataset: Rows[ItemT]
    seed: int | None
    size: int
    _starts: list[int] = field(init=False)
    """The position in its epoch at which each window begins, and the end of the last one."""
    _block: int | None = field(init=False)
    """Number of rows of a streamed dataset in memory at a time."""

    def __attrs_post_init__(self) -> None:
        stream = as_stream(self.dataset)
        self._block = None if stream is None else stream.block
        n = len(self.dataset)
        rows = min(_FIRST_SIZE, self.size)
        self._starts = [0]
        while self._starts[-1] < n:
            self._starts.append(min(self._starts[-1] + rows, n))
            rows = min(2 * rows, self.size)

    @property
    def per_epoch(self) -> int:
        """Number of windows in an epoch."""
        return len(self._starts) - 1

    def ends_epoch(self, index: int) -> bool:
        """Return whether a window is the last of its epoch."""
        return (index + 1) % self.per_epoch == 0

    def positions(self, index: int) -> range:
        """Return the stream positions of a window's rows."""
        epoch, i = divmod(index, self.per_epoch)
        first = epoch * len(self.dataset)
        return range(first + self._starts[i], first + self._starts[i + 1])

    def row(self, position: int) -> int:
        """Return the dataset row at a stream position."""
        n = len(self.dataset)
        epoch, index = divmod(position, n)
        if self._block is None:
            return _order(n, self.seed, epoch)[index]
        block, index = divmod(index, self._block)
        first = block * self._block
        return first + _order(min(self._block, n - first), self.seed, f"{epoch}, block {block}")[index]

    def bookmarks(self, positions: Iterable[int]) -> dict[int, Any]:
        """Return bookmarks for reading the rows at some stream positions without reading all rows before them."""
        stream = as_stream(self.dataset)
        if stream is None:
            return {}
        rows = [self.row(position) for position in positions]
        return {block: bookmark for row in rows for block, bookmark in stream.bookmark(row).items()}

    def add_bookmarks(self, bookmarks: dict[int, Any]) -> None:
        """Add bookmarks that `bookmarks` returned, possibly in a different process."""
        stream = as_stream(self.dataset)
        if stream is not None:
            stream.add_bookmarks(bookmarks)

    def encoded(self, row: int) -> Sequence[ItemT] | SkippedRow:
        """Encode a row of the dataset."""
        encoded = self.dataset[row]
        return encoded if isinstance(encoded, SkippedRow) else as_items(encoded)

    def read(self, index: int) -> Window[ItemT]:
        """Encode a window's rows."""
        items: dict[Document, ItemT] = {}
        skipped: list[SkippedRow] = []
        positions = self.positions(index)
        for position in positions:
            encoded = self.encoded(self.row(position))
            if isinstance(encoded, SkippedRow):
                skipped.append(encoded)
            else:
                items |= {(position, i): item for i, item in enumerate(encoded)}
        return Window(len(positions), items, skipped, self.bookmarks((positions[0], positions[-1])))


_order = lru_cache(maxsize=4)(Order)


def epoch_sizes(
    windows: Windows[Any], arrangement: Arrangement, lengths: Mapping[int, list[int]], epochs: int
) -> list[int]:
    """Count the batch rows of each epoch.

    Args:
        windows: The dataset's windows.
        arrangement: The arrangement of documents into batch rows.
        lengths: Length of each item (positions), by dataset row.
        epochs: Number of epochs.
    """
    sizes = [0] * epochs
    documents: dict[Document, int] = {}
    for index in range(epochs * windows.per_epoch):
        for position in windows.positions(index):
            documents |= {(position, i): n for i, n in enumerate(lengths[windows.row(position)])}
        rows, waiting = arrangement.rows(documents, index, is_last=windows.ends_epoch(index))
        sizes[index // windows.per_epoch] += len(rows)
        documents = {document: documents[document] for document in waiting}
    return sizes
