"""Find the items of a JSON list in a file, without loading the whole file."""

import codecs
import json
from array import array
from collections.abc import Iterator

import numpy as np

from torchtune.datasets._records import Offsets, TextFile

_BLANKS = " \t\n\r"
_NEAR_END = 16
"""An error this close to the end of the text in memory may only mean that the text is incomplete (characters)."""

# Values are skipped, not used, so numbers are passed to `len` rather than converted.
_DECODER = json.JSONDecoder(parse_int=len, parse_float=len)


def find_items(file: TextFile) -> Offsets | None:
    """Find the items of the list in a file.

    Returns:
        The start of each item, and the end of the last one; None if the file has one list per line instead.

    Raises:
        ValueError: The list is not valid JSON, is empty, or is followed by other text.
    """
    reader = _ListReader(file)
    starts = array("q", reader.items())
    end = reader.offset
    trailing = reader.position_after()
    if trailing is not None and file.line(end) == file.line(file.start):
        return None
    if trailing is not None:
        raise ValueError(
            f"{file.path}: line {file.line(trailing)}: the list of rows ends before this line; remove the text after"
            " it, or join the lists into one"
        )
    if not starts:
        raise ValueError(f"{file.path}: the file has no rows")
    return np.append(np.frombuffer(starts, np.int64), end)


class _ListReader:
    """Reads a JSON list item by item, with only as much of the file in memory as an item needs."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._chunks = file.chunks(file.start)
        # Invalid UTF-8 is reported when its row is read.
        self._to_text = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._cursor = 0
        self._is_complete = False
        self.offset = file.start
        """The position of `_cursor` in the file (bytes)."""

    def items(self) -> Iterator[int]:
        """Yield the position of each item (bytes)."""
        self._skip_blanks()
        self._advance(self._cursor + 1)  # the opening bracket
        if self._next() == "]":
            self._advance(self._cursor + 1)
            return
        while True:
            end = self._item_end()
            yield self.offset
            self._advance(end)
            mark = self._next()
            if mark not in (",", "]"):
                message = "Expecting ',' delimiter" if mark else "the list is not closed; expected ']'"
                raise self._error(message, self._cursor)
            self._advance(self._cursor + 1)
            if mark == "]":
                return
            if self._next() == "]":
                raise self._error("trailing comma after the last row; remove the comma", self._cursor)

    def position_after(self) -> int | None:
        """Return the position of the first text after the list (bytes), or None if there is only white space."""
        return self.offset if self._next() else None

    def _item_end(self) -> int:
        """Return the index in `_text` at which the item at the cursor ends."""
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._cursor)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _NEAR_END
                if not (is_cut and self._read_more()):
                    raise self._error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._error("the value is nested too deeply to be read", self._cursor) from error
            else:
                if end < len(self._text) or not self._read_more():
                    return end

    def _next(self) -> str:
        """Skip white space, and return the next character, or "" at the end of the file."""
        self._skip_blanks()
        return self._text[self._cursor : self._cursor + 1]

    def _skip_blanks(self) -> None:
        while True:
            i = self._cursor
            while i < len(self._text) and self._text[i] in _BLANKS:
                i += 1
            self._advance(i)
            if i < len(self._text) or not self._read_more():
                return

    def _advance(self, i: int) -> None:
        skipped = self._text[self._cursor : i]
        self.offset += len(skipped) if skipped.isascii() else len(skipped.encode("utf-8", "surrogateescape"))
        self._cursor = i

    def _read_more(self) -> bool:
        """Drop the text before the cursor, and read at least as much new text as remains.

        Returns:
            False at the end of the file.
        """
        if self._is_complete:
            return False
        remaining = self._text[self._cursor :]
        added, n_added = [remaining], 0
        while n_added <= len(remaining) and not self._is_complete:
            chunk = next(self._chunks, None)
            self._is_complete = chunk is None
            added.append(self._to_text.decode(b"" if chunk is None else chunk[1], final=self._is_complete))
            n_added += len(added[-1])
        self._text, self._cursor = "".join(added), 0
        return True

    def _error(self, message: str, i: int) -> ValueError:
        """Build an error with the line and column of an index in `_text` that is not before the cursor."""
        position = self.offset + len(self._text[self._cursor : i].encode("utf-8", "surrogateescape"))
        line, column = self._file.line(position), self._file.column(position)
        location = f"line {line}, column {column}" if line > 1 else f"column {column}"
        return ValueError(f"{self._file.path}: not valid JSON at {location}: {message}")
