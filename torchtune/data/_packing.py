"""Documents into rows of one length, with as little padding as may be."""

import bisect
from collections.abc import Sequence
from typing import Literal

Fit = Literal["best", "first"]


def pack(lengths: Sequence[int], capacity: int, fit: Fit = "best") -> list[list[int]]:
    """Put documents into rows.

    Args:
        lengths: Of the documents, none above `capacity`.
        capacity: Length of a row.
        fit: "best": the longest first, each into the fullest row that has room for it (best-fit decreasing, Johnson
            1973); "first": in their order, each into the first row that has room.

    Returns:
        The rows, each the numbers of its documents in their order; rows in the order of their first documents.

    Raises:
        ValueError: a document is longer than a row.
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"a document of {max(lengths)} tokens does not fit into a row of {capacity}")
    rows = _best(lengths, capacity) if fit == "best" else _first(lengths, capacity)
    return sorted(map(sorted, rows))


def _best(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left of each row, and its number; sorted
    for document in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[document]
        at = bisect.bisect_left(room, (length, -1))
        if at == len(room):
            rows.append([])
            left, row = capacity, len(rows) - 1
        else:
            left, row = room.pop(at)
        rows[row].append(document)
        bisect.insort(room, (left - length, row))
    return rows


def _first(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    tree = _Rooms(len(lengths), capacity)
    for document, length in enumerate(lengths):
        row = tree.take(length)
        if row == len(rows):
            rows.append([])
        rows[row].append(document)
    return rows


class _Rooms:
    """What is left of each of many rows, as a tree of maxima, in which the first with enough is found by descent."""

    def __init__(self, n: int, capacity: int) -> None:
        self._size = 1 << max(n - 1, 0).bit_length()
        self._most = [capacity] * (2 * self._size)

    def take(self, length: int) -> int:
        """Take room from the first row that has it, and return its number."""
        node = 1
        while node < self._size:
            node *= 2
            if self._most[node] < length:
                node += 1
        self._most[node] -= length
        row = node - self._size
        while node > 1:
            node //= 2
            self._most[node] = max(self._most[2 * node], self._most[2 * node + 1])
        return row
