"""A window's documents in the rows of batches."""

from collections.abc import Mapping
from typing import TypeVar

from attrs import frozen

from torchtune.data._order import Order
from torchtune.data._packing import Fit, pack

T = TypeVar("T")
Document = tuple[int, int]
"""An example: its row's place in the stream of all epochs, and its number among those of that row."""

_FULL = 0.97
"""Share of a row from which it counts as full; a less full one may wait for the next window's documents."""
_WAITING = 8
"""One of so many rows may wait."""
_GROUP = 64
"""Rows of like length that stay together, whatever the batch size and the number of ranks."""


@frozen
class Arrangement:
    """How documents become rows."""

    packed_length: int | None
    """Positions of a row that holds several documents; None: a row holds one."""
    fit: Fit
    """How documents are put into such rows (`pack`)."""
    group_by_length: bool
    """Whether rows of one document stand beside others of like length."""
    seed: int | None
    """What the order of rows is drawn from; None: that of their first documents."""

    def rows(
        self, lengths: Mapping[Document, int], number: int, *, is_last: bool
    ) -> tuple[list[list[Document]], list[Document]]:
        """Arrange the documents of a window, and those that waited for it.

        Args:
            lengths: What each takes of a row, in the order of the stream.
            number: The window's.
            is_last: Whether the epoch ends with it, so that nothing may wait.

        Returns:
            The rows; and the documents that wait for the next window.
        """
        documents = list(lengths)
        if self.packed_length is None:
            return self._grouped([[d] for d in documents], lengths, number), []
        packed = pack(list(lengths.values()), self.packed_length, self.fit)
        rows = [[documents[i] for i in row] for row in packed]
        used = [sum(lengths[d] for d in row) for row in rows]
        poor = [i for i in range(len(rows)) if used[i] < _FULL * self.packed_length]
        poor = sorted(poor, key=used.__getitem__)[: 0 if is_last else -(-len(rows) // _WAITING)]
        waiting = sorted(d for i in poor for d in rows[i])
        kept = [row for i, row in enumerate(rows) if i not in set(poor)]
        return self._shuffled(kept, f"rows of {number}"), waiting

    def _grouped(
        self, rows: list[list[Document]], lengths: Mapping[Document, int], number: int
    ) -> list[list[Document]]:
        if not self.group_by_length:
            return rows
        rows = sorted(rows, key=lambda row: lengths[row[0]])
        groups = [rows[i : i + _GROUP] for i in range(0, len(rows), _GROUP)]
        return [row for group in self._shuffled(groups, f"groups of {number}") for row in group]

    def _shuffled(self, items: list[T], what: str) -> list[T]:
        order = Order(len(items), self.seed, what)
        return [items[order[i]] for i in range(len(items))]
