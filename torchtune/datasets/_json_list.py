"""Where the items of a JSON list are in a file, found without holding the file in memory."""

import codecs
import json
from array import array
from collections.abc import Iterator

import numpy as np

from torchtune.datasets._records import Offsets, TextFile

_BLANKS = " \t\n\r"
_NEAR_END = 16
"""An error so close to the end of the text that was read may be due to what follows (characters)."""

# Numbers are only passed over here; `len` stands for their conversion.
_DECODER = json.JSONDecoder(parse_int=len, parse_float=len)


def find_items(file: TextFile) -> Offsets | None:
    """Find the items of the list that a file holds.

    Returns:
        Where each begins, and where the last ends; None where the file has a list on each line instead.

    Raises:
        ValueError: The list is not valid JSON, is empty, or is followed by something else.
    """
    reader = _ListReader(file)
    starts = array("q", reader.items())
    end = reader.offset
    rest = reader.position_after()
    if rest is not None and file.line(end) == file.line(file.start):
        return None
    if rest is not None:
        raise ValueError(
            f"{file.path}: line {file.line(rest)}: the list of rows ends before this line; remove what follows it, or"
            " join the lists into one"
        )
    if not starts:
        raise ValueError(f"{file.path}: the file has no rows")
    return np.append(np.frombuffer(starts, np.int64), end)


class _ListReader:
    """Reads a JSON list item by item, with as much of the file in memory as an item needs."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self._chunks = file.chunks(file.start)
        # What is not UTF-8 is reported when its row is read.
        self._to_text = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        self._is_whole = False
        self.offset = file.start
        """Where `_at` is in the file (bytes)."""

    def items(self) -> Iterator[int]:
        """Yield where each item begins (bytes)."""
        self._skip_blanks()
        self._advance(self._at + 1)  # the list's bracket
        if self._next() == "]":
            self._advance(self._at + 1)
            return
        while True:
            end = self._item_end()
            yield self.offset
            self._advance(end)
            mark = self._next()
            if mark not in (",", "]"):
                message = "Expecting ',' delimiter" if mark else "the list is not closed; expecting ']'"
                raise self._error(message, self._at)
            self._advance(self._at + 1)
            if mark == "]":
                return
            if self._next() == "]":
                raise self._error("no row follows the last comma; remove it", self._at)

    def position_after(self) -> int | None:
        """Return where something that is not blank follows the list (bytes); None: nothing does."""
        return self.offset if self._next() else None

    def _item_end(self) -> int:
        """Return where the item at this position ends in `_text`."""
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _NEAR_END
                if not (is_cut and self._read_on()):
                    raise self._error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._error("the value is nested too deeply to be read", self._at) from error
            else:
                if end < len(self._text) or not self._read_on():
                    return end

    def _next(self) -> str:
        """Go to the next character that is not blank, and return it; nothing at the end of the file."""
        self._skip_blanks()
        return self._text[self._at : self._at + 1]

    def _skip_blanks(self) -> None:
        while True:
            at = self._at
            while at < len(self._text) and self._text[at] in _BLANKS:
                at += 1
            self._advance(at)
            if at < len(self._text) or not self._read_on():
                return

    def _advance(self, at: int) -> None:
        passed = self._text[self._at : at]
        self.offset += len(passed) if passed.isascii() else len(passed.encode("utf-8", "surrogateescape"))
        self._at = at

    def _read_on(self) -> bool:
        """Forget the text before this position and read at least as much as is left; False at the end of the file."""
        if self._is_whole:
            return False
        rest = self._text[self._at :]
        added, n_added = [rest], 0
        while n_added <= len(rest) and not self._is_whole:
            chunk = next(self._chunks, None)
            self._is_whole = chunk is None
            added.append(self._to_text.decode(b"" if chunk is None else chunk[1], final=self._is_whole))
            n_added += len(added[-1])
        self._text, self._at = "".join(added), 0
        return True

    def _error(self, message: str, at: int) -> ValueError:
        """Return an error with the line and column of a position in `_text`, from `_at` on."""
        position = self.offset + len(self._text[self._at : at].encode("utf-8", "surrogateescape"))
        line, column = self._file.line(position), self._file.column(position)
        where = f"line {line}, column {column}" if line > 1 else f"column {column}"
        return ValueError(f"{self._file.path}: not valid JSON at {where}: {message}")
