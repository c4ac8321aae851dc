"""Text files that can be read at any position on demand."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define

from torchtune.datasets._compressed import COMPRESSIONS, TemporaryFile, decompress
from torchtune.datasets._tables import RowError, Table

_CHUNK = 2**22
"""Size of the chunks that are searched for line endings (bytes)."""
_BOM = b"\xef\xbb\xbf"
_UTF_16 = "UTF-16 text, not UTF-8; save it as UTF-8"
_NOT_TEXT = {
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
    b"\x1f\x8b": "compressed with gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; add .zst to its name",
    b"BZh": "compressed with bzip2; add .bz2 to its name",
    b"\xfd7zXZ\x00": "compressed with xz; add .xz to its name",
    b"PK\x03\x04": "a ZIP archive; extract it first",
    b"PAR1": "a Parquet file; rename it to end in .parquet",
    b"ARROW1": "an Arrow file; rename it to end in .arrow",
}
"""Descriptions of files that begin with these bytes, with a fix for each."""

Offsets = np.ndarray[Any, np.dtype[np.int64]]
"""Positions in a file (bytes)."""


class TextFile:
    """A file of UTF-8 text, decompressed into a temporary file if it is compressed.

    The file is read rather than memory-mapped, because the touched pages of a mapping count as memory of the process.

    Args:
        path: The user's file, named in error messages.

    Raises:
        ValueError: The file is not text, or cannot be decompressed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._copy: TemporaryFile | None = None
        self._data = path
        if path.suffix.lower() in COMPRESSIONS:
            self._decompress()
        self._descriptor: int | None = None
        self._stamp = _stamp(os.stat(self._data))  # noqa: PTH116 - compared with os.fstat
        self._last_count = (0, 0)
        self.size = self._stamp[0]
        """Size of the text (bytes)."""
        beginning = self.read(0, 4096)
        _check_is_text(path, beginning)
        self.start = len(_BOM) if beginning.startswith(_BOM) else 0
        """Start of the text, after any byte order mark (bytes)."""
        self.newline = b"\n"
        """The line ending: `\\n`, or `\\r` in files without `\\n`, such as files from old Macs."""
        self.newline = self._find_newline()

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes between two positions.

        Raises:
            OSError: The file has changed since it was opened.
        """
        descriptor = self._descriptor
        if descriptor is None:
            self._descriptor = descriptor = self._open()
            weakref.finalize(self, os.close, descriptor)
        return os.pread(descriptor, end - start, start)

    def chunks(self, start: int, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the bytes after a position, in chunks of a few MiB, each with its position."""
        end = self.size if end is None else end
        for position in range(start, end, _CHUNK):
            yield position, self.read(position, min(position + _CHUNK, end))

    def line(self, position: int) -> int:
        """Return the line number of a position, counted from 1."""
        start, n = self._last_count
        if start > position:
            start = n = 0
        n += sum(chunk.count(self.newline) for _, chunk in self.chunks(start, position))
        self._last_count = position, n  # locations are mostly requested in order
        return n + 1

    def column(self, position: int) -> int:
        """Return the column of a position in its line (characters, counted from 1)."""
        start = position
        while start > self.start:
            begin = max(start - _CHUNK, self.start)
            line_end = self.read(begin, start).rfind(self.newline)
            start = begin + line_end + 1
            if line_end >= 0:
                break
        return len(self.read(start, position).decode(errors="replace")) + 1

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_descriptor": None, "_copy": None}

    def _open(self) -> int:
        if not self._data.exists() and self._data != self.path:  # unpickled, and the copy is gone
            self._decompress()
            self._stamp = _stamp(os.stat(self._data))  # noqa: PTH116 - compared with os.fstat
        descriptor = os.open(self._data, os.O_RDONLY)
        if _stamp(os.fstat(descriptor)) != self._stamp:
            os.close(descriptor)
            raise OSError(f"{self.path}: the file has changed since it was opened; restart the run")
        return descriptor

    def _decompress(self) -> None:
        self._copy = decompress(self.path)
        self._data = self._copy.path

    def _find_newline(self) -> bytes:
        has_return = False
        for _, chunk in self.chunks(0):
            if b"\n" in chunk:
                return b"\n"
            has_return = has_return or b"\r" in chunk
        return b"\r" if has_return else b"\n"


@define(eq=False, repr=False, slots=False)
class Records(Table):
    """A table whose rows are the records of a file. Each row uses 8 bytes of memory, for its position."""

    file: TextFile
    starts: Offsets
    """Start of each record, and the end of the last one (bytes)."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def line(self, index: int) -> int:
        """Return the number of the line on which a record begins, counting blank lines."""
        return self.file.line(int(self.starts[index]))

    def location(self, index: int) -> str:
        """Return the location of a row, which is the line of its record."""
        return f"{self.file.path}: line {self.line(index)}"

    def text(self, index: int) -> str:
        """Read a record.

        Raises:
            RowError: The record is not UTF-8.
        """
        raw = self.file.read(int(self.starts[index]), int(self.starts[index + 1]))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowError(
                f"{self.location(index)}: expected UTF-8 text; byte {error.start} (0x{raw[error.start]:02x}) is"
                " invalid; save the file as UTF-8"
            ) from error


def find_lines(file: TextFile) -> Offsets:
    """Return the start of each line that is not blank, and the end of the last one.

    A blank line belongs to the line before it.

    Raises:
        ValueError: All lines are blank.
    """
    parts: list[Offsets] = []
    start = file.start
    for offset, data in file.chunks(file.start):
        chunk = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(chunk == file.newline[0]) + (offset + 1)
        if offset + len(data) == file.size and (not len(ends) or ends[-1] != file.size):
            ends = np.append(ends, file.size)  # the last line has no line ending
        if len(ends):
            starts = np.concatenate([[start], ends[:-1]])
            parts.append(starts[_has_text(file, data, offset, starts, ends)])
            start = int(ends[-1])
    offsets = np.concatenate([*parts, [file.size]]).astype(np.int64)
    if len(offsets) == 1:
        raise ValueError(f"{file.path}: the file has no rows")
    return offsets


def _has_text(file: TextFile, data: bytes, offset: int, starts: Offsets, ends: Offsets) -> Any:
    """Return a mask of the lines in a chunk that contain text. Only lines that begin with white space are read."""
    begins_blank = np.frombuffer(data, np.uint8)[np.maximum(starts - offset, 0)] <= ord(" ")
    begins_blank[0] |= starts[0] < offset  # it begins in an earlier chunk
    has_text = np.ones(len(starts), dtype=bool)
    for i in np.flatnonzero(begins_blank):
        start, end = int(starts[i]), int(ends[i])
        line = data[start - offset : end - offset] if start >= offset else file.read(start, end)
        has_text[i] = bool(line.strip())
    return has_text


def _check_is_text(path: Path, beginning: bytes) -> None:
    """Check that a file does not begin like a binary or UTF-16 file.

    Raises:
        ValueError: The file is not UTF-8 text; the message names the format and a fix.
    """
    for magic, message in _NOT_TEXT.items():
        if beginning.startswith(magic):
            raise ValueError(f"{path}: the file is {message}")
    if beginning.count(0) > len(beginning) // 4:
        raise ValueError(f"{path}: the file is binary, or {_UTF_16}")


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
