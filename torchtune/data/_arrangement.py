"""Arrangement of a packing window's documents into the rows of batches."""

from collections.abc import Mapping
from typing import TypeVar

from attrs import frozen

from torchtune.data._order import Order
from torchtune.data._packing import Fit, pack

T = TypeVar("T")
Document = tuple[int, int]
"""An item, identified by its row's position in the stream of all epochs and its index among that row's items."""

_FULL_RATIO = 0.97
"""Fill ratio at which a pack counts as full; the documents of a less full pack may wait for the next window."""
_WAITING_INTERVAL = 8
"""At most one in this many packs may wait."""
_GROUP_SIZE = 64
"""Number of rows of similar length in a group, independent of the batch size and the number of ranks."""


@frozen
class Arrangement:
    """The arrangement of documents into rows."""

    packed_length: int | None
    """Length of a pack (positions). None: each row contains one document."""
    fit: Fit
    """The packing method for documents (`pack`)."""
    group_by_length: bool
    """Group rows of similar length, if they are not packed."""
    seed: int | None
    """Seed for shuffling the rows; None orders them by their first documents."""

    def rows(
        self, lengths: Mapping[Document, int], window_index: int, *, is_last: bool
    ) -> tuple[list[list[Document]], list[Document]]:
        """Arrange the documents of a window and the documents left over from earlier windows.

        Args:
            lengths: Length of each document (positions), in stream order.
            window_index: Index of the window.
            is_last: Whether the window is the last of its epoch, so that no document may wait.

        Returns:
            The rows, and the documents that wait for the next window.
        """
        documents = list(lengths)
        if self.packed_length is None:
            return self._grouped([[d] for d in documents], lengths, window_index), []
        packed = pack(list(lengths.values()), self.packed_length, self.fit)
        rows = [[documents[i] for i in row] for row in packed]
        used = [sum(lengths[d] for d in row) for row in rows]
        underfull = [i for i in range(len(rows)) if used[i] < _FULL_RATIO * self.packed_length]
        underfull = sorted(underfull, key=used.__getitem__)[
            : 0 if is_last else -(-len(rows) // _WAITING_INTERVAL)
        ]
        waiting = sorted(d for i in underfull for d in rows[i])
        emitted = [row for i, row in enumerate(rows) if i not in set(underfull)]
        return self._shuffled(emitted, f"rows of {window_index}"), waiting

    def _grouped(
        self, rows: list[list[Document]], lengths: Mapping[Document, int], window_index: int
    ) -> list[list[Document]]:
        if not self.group_by_length:
            return rows
        rows = sorted(rows, key=lambda row: lengths[row[0]])
        groups = [rows[i : i + _GROUP_SIZE] for i in range(0, len(rows), _GROUP_SIZE)]
        return [row for group in self._shuffled(groups, f"groups of {window_index}") for row in group]

    def _shuffled(self, items: list[T], salt: str) -> list[T]:
        order = Order(len(items), self.seed, salt)
        return [items[order[i]] for i in range(len(items))]
