"""Rows that come one after the other, from the hub or out of Parquet files, without a copy of them on the disk."""

import copy
from collections.abc import Iterator
from typing import Any

from torchtune.datasets._tables import Row, RowError, without_filled_nulls

BLOCK = 4096
"""Rows that are in memory together, and that are shuffled among themselves."""
_KEPT = 64
"""Bookmarks that are kept, besides that of the beginning."""

Bookmark = dict[str, Any]
"""What `datasets` needs to go on from somewhere: which file, and how far in it; numbers, texts and dicts of them."""


class StreamTable:
    """A stream of `datasets` as a table; a block of its rows is in memory.

    Any row can be asked for. One that is not in memory costs reading on to it: from where the stream is, or from
    the nearest bookmark before it, of which there is one for each block that was begun lately.

    Args:
        stream: A `datasets.IterableDataset`, at its beginning.
        n_rows: How many rows it has, or how many of them are used.
        where: What it is called in messages.
    """

    def __init__(self, stream: Any, n_rows: int, where: str) -> None:  # `datasets` ships no types.
        self.block = BLOCK
        self._stream, self._n_rows, self._where = stream, n_rows, where
        self._bookmarks: dict[int, Bookmark] = {0: copy.deepcopy(stream.state_dict())}
        self._rest: Iterator[Row] | None = None
        self._next = 0  # the block that the stream comes to next
        self._number, self._rows = -1, list[Row]()

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, index: int, /) -> Row:
        number, at = divmod(index, self.block)
        if number != self._number:
            self._read(number)
        if at >= len(self._rows):
            n = self._number * self.block + len(self._rows)
            raise RowError(
                f"{self.place(index)}: the stream has {n if self._rows else 'fewer'} rows, not {self._n_rows};"
                " load_options.rows is to say how many"
            )
        return self._rows[at]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rest": None, "_next": 0, "_number": -1, "_rows": []}

    def place(self, index: int) -> str:
        """Say which row it is, counted from 1."""
        return f"{self._where}: row {index + 1}"

    def bookmark(self, row: int) -> dict[int, Bookmark]:
        """Return what finds a row again without reading what stands before its block, if that is known."""
        number = row // self.block
        return {number: self._bookmarks[number]} if number in self._bookmarks else {}

    def add_bookmarks(self, bookmarks: dict[int, Bookmark]) -> None:
        """Take what `bookmark` gave, here or in another process."""
        for number, found in bookmarks.items():
            self._keep(number, found)

    def _read(self, number: int) -> None:
        """Go to a block."""
        nearest = max(i for i in self._bookmarks if i <= number)
        if self._rest is None or not nearest <= self._next <= number:
            self._stream.load_state_dict(copy.deepcopy(self._bookmarks[nearest]))
            self._rest, self._next = iter(self._stream), nearest
        while self._next <= number:
            self._keep(self._next, copy.deepcopy(self._stream.state_dict()))
            n = min(self.block, self._n_rows - self._next * self.block)
            self._rows = list(self._taken(n, self._rest))
            self._number = self._next
            self._next += 1

    def _keep(self, number: int, bookmark: Bookmark) -> None:
        """Keep a bookmark, and those of the beginning and of the latest blocks."""
        if number == 0:
            return
        self._bookmarks.pop(number, None)
        self._bookmarks[number] = bookmark
        for old in list(self._bookmarks)[1:-_KEPT]:
            del self._bookmarks[old]

    def _taken(self, n: int, rows: Iterator[Row]) -> Iterator[Row]:
        for i in range(n):
            try:
                row = next(rows, None)
            except Exception as error:  # of whatever kind the library and those below it raise
                self._rest, self._number = None, -1
                place = self.place(self._next * self.block + i)
                raise OSError(f"{place}: the stream broke off: {type(error).__name__}: {error}") from error
            if row is None:
                return
            yield without_filled_nulls(row, self._stream.features)
