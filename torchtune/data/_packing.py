"""Bin packing of documents into packs of one length."""

import bisect
from collections.abc import Sequence
from typing import Literal

Fit = Literal["best", "first"]


def pack(lengths: Sequence[int], capacity: int, fit: Fit = "best") -> list[list[int]]:
    """Assign documents to packs.

    Args:
        lengths: Lengths of the documents, none above `capacity`.
        capacity: Length of a pack.
        fit: "best": longest first, each into the fullest pack that has room (best-fit decreasing, Johnson 1973);
            "first": in order, each into the first pack that has room.

    Returns:
        The packs as lists of document indices in ascending order, ordered by their first documents.

    Raises:
        ValueError: a document is longer than a pack.
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"a document of {max(lengths)} tokens does not fit in a pack of {capacity}")
    packs = _best_fit(lengths, capacity) if fit == "best" else _first_fit(lengths, capacity)
    return sorted(map(sorted, packs))


def _best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # free positions of each pack, and its index; sorted
    for document in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[document]
        fullest = bisect.bisect_left(free, (length, -1))
        if fullest == len(free):
            packs.append([])
            room, i = capacity, len(packs) - 1
        else:
            room, i = free.pop(fullest)
        packs[i].append(document)
        bisect.insort(free, (room - length, i))
    return packs


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    packs: list[list[int]] = []
    tree = _FreeTree(len(lengths), capacity)
    for document, length in enumerate(lengths):
        i = tree.take(length)
        if i == len(packs):
            packs.append([])
        packs[i].append(document)
    return packs


class _FreeTree:
    """Free positions of each pack, as a tree of maxima; a descent finds the first pack with enough room."""

    def __init__(self, n: int, capacity: int) -> None:
        self._size = 1 << max(n - 1, 0).bit_length()
        self._max_free = [capacity] * (2 * self._size)

    def take(self, length: int) -> int:
        """Take positions from the first pack that has enough, and return its index."""
        node = 1
        while node < self._size:
            node *= 2
            if self._max_free[node] < length:
                node += 1
        self._max_free[node] -= length
        i = node - self._size
        while node > 1:
            node //= 2
            self._max_free[node] = max(self._max_free[2 * node], self._max_free[2 * node + 1])
        return i
