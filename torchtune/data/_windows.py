"""A dataset as an endless stream of windows, each of some rows read and encoded together."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from attrs import define, field, frozen

from torchtune.data._arrangement import Document
from torchtune.data._example import Example, LeftOut
from torchtune.data._order import Order

_FIRST = 256
"""Rows of an epoch's first window, so that the first batch is there soon; each one after it has twice as many."""


Encoded = Example | Sequence[Example] | LeftOut
"""What a row gives: an example, several, or why there is none."""


class Examples(Protocol):
    """Examples by number: a list of them, or a torch.utils.data.Dataset with a length."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int, /) -> Encoded:
        """Take what a row gives."""


def spread(dataset: Examples, n: int) -> Sequence[int]:
    """Choose rows to look at: all over the dataset, or the first ones of a dataset that is read in its order."""
    n_rows = len(dataset)
    if n_rows <= n or _block(dataset) is not None:
        return range(min(n, n_rows))
    return [i * n_rows // n for i in range(n)]


def place_of(dataset: Examples, row: int) -> str:
    """Say where a row of a dataset is, as the dataset has it, or by its number."""
    place: Callable[[int], str] | None = getattr(dataset, "place", None)
    return f"row {row + 1}" if place is None else place(row)


def reported_of(dataset: Examples) -> frozenset[str]:
    """Return the texts of the notes that a dataset has logged already (`RowDataset.reported`)."""
    return getattr(dataset, "reported", frozenset())


def use_cache(dataset: Examples, folder: str) -> None:
    """Keep a dataset's encoded rows on the disk, if it can (`RowDataset.use_cache`)."""
    method: Callable[[str], None] | None = getattr(dataset, "use_cache", None)
    if method is not None:
        method(folder)


def _block(dataset: Examples) -> int | None:
    """Return how many rows are in memory together, of a dataset that is read in its order (a stream)."""
    return getattr(dataset, "block", None)


@frozen
class Window:
    """What a window's rows gave."""

    n_rows: int
    examples: dict[Document, Example]
    """In the order of the stream."""
    left_out: list[LeftOut]
    bookmarks: dict[int, Any]
    """What finds the rows again (`Windows.bookmarks`)."""


@define
class Windows:
    """The windows of all epochs by number; each epoch begins a new one.

    A dataset with a `block`, a number of rows, is read in its order: rows are shuffled within blocks of that many. Its
    `bookmark(row)` and `add_bookmarks(found)` then tell where a block begins, and take that from another process.

    Args:
        dataset: The rows.
        seed: What every epoch's order is drawn from; None: the rows as they come.
        size: Rows of a window, at most.
    """

    dataset: Examples
    seed: int | None
    size: int
    _starts: list[int] = field(init=False)
    """The place in its epoch at which each window begins, and the end of the last."""

    def __attrs_post_init__(self) -> None:
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
        block = _block(self.dataset)
        if block is None:
            return _order(n, self.seed, epoch)[at]
        number, at = divmod(at, block)
        first = number * block
        return first + _order(min(block, n - first), self.seed, f"{epoch}, block {number}")[at]

    def bookmarks(self, places: Iterable[int]) -> dict[int, Any]:
        """Return what finds the rows at some places of the stream again without reading all that stands before."""
        if _block(self.dataset) is None:
            return {}
        bookmark: Callable[[int], dict[int, Any]] = self.dataset.bookmark  # type: ignore[attr-defined]  # it has a block
        return {number: found for place in places for number, found in bookmark(self.row(place)).items()}

    def add_bookmarks(self, bookmarks: dict[int, Any]) -> None:
        """Take what `bookmarks` gave, here or in another process."""
        if bookmarks:
            self.dataset.add_bookmarks(bookmarks)  # type: ignore[attr-defined]  # as above

    def encoded(self, row: int) -> Sequence[Example] | LeftOut:
        """Encode a row of the dataset."""
        found = self.dataset[row]
        return [found] if isinstance(found, Example) else found

    def read(self, number: int) -> Window:
        """Encode a window's rows."""
        examples: dict[Document, Example] = {}
        left_out: list[LeftOut] = []
        places = self.places(number)
        for place in places:
            found = self.encoded(self.row(place))
            if isinstance(found, LeftOut):
                left_out.append(found)
            else:
                examples |= {(place, i): example for i, example in enumerate(found)}
        return Window(len(places), examples, left_out, self.bookmarks((places[0], places[-1])))


_order = lru_cache(maxsize=4)(Order)
