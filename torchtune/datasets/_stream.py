"""Streamed rows: read in order from the hub or from Parquet files, without a copy on disk."""

import copy
from collections.abc import Iterator
from typing import Any

from torchtune.datasets._tables import NumberedTable, Row, RowError, without_filled_nulls

BLOCK = 4096
"""Number of rows that are in memory, and shuffled, together."""
_MAX_BOOKMARKS = 64
"""Number of bookmarks that are kept, in addition to the bookmark of the beginning."""

Bookmark = dict[str, Any]
"""The state that `datasets` resumes from, such as the file and the offset: numbers, strings and dicts."""


class StreamTable(NumberedTable):
    """A stream of `datasets` as a table, with one block of its rows in memory.

    Any row can be read. For a row that is not in memory, the stream is read up to it, from its current position or
    from the nearest earlier bookmark; each of the latest blocks has a bookmark.

    Args:
        stream: A `datasets.IterableDataset`, at its beginning.
        n_rows: Number of rows of the stream, or the smaller number of rows to use.
        name: The name of the table in messages.
    """

    def __init__(self, stream: Any, n_rows: int, name: str) -> None:  # `datasets` ships no types.
        self.block = BLOCK
        super().__init__(name)
        self._stream = stream
        self._n_rows = n_rows
        self._bookmarks: dict[int, Bookmark] = {0: copy.deepcopy(stream.state_dict())}
        self._iterator: Iterator[Row] | None = None
        self._next_block = 0
        self._current_block = -1
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, index: int, /) -> Row:
        block, i = divmod(index, self.block)
        if block != self._current_block:
            self._seek(block)
        if i >= len(self._rows):
            n = self._current_block * self.block + len(self._rows)
            raise RowError(
                f"{self.location(index)}: the stream has {f'only {n} of' if self._rows else 'fewer than'}"
                f" {self._n_rows} rows; correct load_options.rows"
            )
        return self._rows[i]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_iterator": None, "_next_block": 0, "_current_block": -1, "_rows": []}

    def bookmark(self, row: int) -> dict[int, Bookmark]:
        """Return the bookmark of a row's block, if there is one, which avoids reading the earlier blocks."""
        block = row // self.block
        return {block: self._bookmarks[block]} if block in self._bookmarks else {}

    def add_bookmarks(self, bookmarks: dict[int, Bookmark]) -> None:
        """Add bookmarks that `bookmark` returned, possibly in a different process."""
        for block, bookmark in bookmarks.items():
            self._store(block, bookmark)

    def _seek(self, block: int) -> None:
        """Read a block into memory."""
        nearest = max(i for i in self._bookmarks if i <= block)
        if self._iterator is None or not nearest <= self._next_block <= block:
            self._stream.load_state_dict(copy.deepcopy(self._bookmarks[nearest]))
            self._iterator = iter(self._stream)
            self._next_block = nearest
        while self._next_block <= block:
            self._store(self._next_block, copy.deepcopy(self._stream.state_dict()))
            n = min(self.block, self._n_rows - self._next_block * self.block)
            self._rows = list(self._read(n, self._iterator))
            self._current_block = self._next_block
            self._next_block += 1

    def _store(self, block: int, bookmark: Bookmark) -> None:
        """Store a bookmark, and keep only the bookmarks of the beginning and of the latest blocks."""
        if block == 0:
            return
        self._bookmarks.pop(block, None)
        self._bookmarks[block] = bookmark
        for old in list(self._bookmarks)[1:-_MAX_BOOKMARKS]:
            del self._bookmarks[old]

    def _read(self, n: int, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield up to n rows.

        Raises:
            OSError: The stream was interrupted; it can be read again.
        """
        for i in range(n):
            try:
                row = next(rows, None)
            except Exception as error:  # the libraries raise many types of exception
                self._iterator = None
                self._current_block = -1
                location = self.location(self._next_block * self.block + i)
                raise OSError(
                    f"{location}: the stream was interrupted: {type(error).__name__}: {error}"
                ) from error
            if row is None:
                return
            yield without_filled_nulls(row, self._stream.features)
