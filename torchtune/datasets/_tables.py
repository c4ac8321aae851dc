"""Rows by number, each read when it is asked for: what a dataset stands on, wherever its rows lie."""

import bisect
import csv
import io
import itertools
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from attrs import define, field

Row = dict[str, Any]
"""Columns by name; whatever the source holds."""

_CHUNK = 2**22
"""What is looked through at a time for the ends of lines (bytes)."""
_SHORT = 8
"""Lines of which it is looked whether they are blank; one of more blanks is a row that cannot be read (bytes)."""
_BOM = b"\xef\xbb\xbf"


_Places = np.ndarray[Any, np.dtype[np.int64]]


class RowError(ValueError):
    """One row that cannot be used; the message begins with its place."""


class Table(Protocol):
    """Rows by number."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int, /) -> Row:
        """Read one.

        Raises:
            RowError: it cannot be read.
        """

    def place(self, index: int) -> str:
        """Say where a row stands, such as `rows.jsonl: line 3`."""


@define
class _Records:
    """Parts of a file that are each read when they are asked for; where they begin takes 8 bytes of memory each.

    They are read, not mapped: what is mapped counts as this process's memory once it was touched.
    """

    path: Path
    starts: _Places
    """Where each begins, and where the last ends (bytes)."""
    _file: int | None = field(default=None, init=False)
    """The open file's number."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def place(self, index: int) -> str:
        """Say where a record stands: on which line it begins, blank ones counted."""
        before, end = 0, int(self.starts[index])
        for at in range(0, end, _CHUNK):
            before += self._read(at, min(at + _CHUNK, end)).count(b"\n")
        return f"{self.path}: line {before + 1}"

    def text(self, index: int) -> str:
        """Read a record.

        Raises:
            RowError: it is not UTF-8.
        """
        raw = self._read(int(self.starts[index]), int(self.starts[index + 1]))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowError(
                f"{self.place(index)}: expected UTF-8 text; byte {error.start} of it is none"
            ) from error

    def __getstate__(self) -> tuple[Path, _Places]:
        return self.path, self.starts

    def __setstate__(self, state: tuple[Path, _Places]) -> None:
        self.path, self.starts = state
        self._file = None

    def _read(self, start: int, end: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
        return os.pread(self._file, end - start, start)


class JsonLines:
    """A .jsonl file: an object a line.

    Raises:
        ValueError: it has no rows.
    """

    def __init__(self, path: Path) -> None:
        self._records = _lines(path)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int, /) -> Row:
        try:
            value = json.loads(self._records.text(index).rstrip())
        except json.JSONDecodeError as error:
            raise RowError(
                f"{self.place(index)}: not valid JSON at column {error.colno}: {error.msg}"
            ) from error
        return _object(value, self, index)

    def place(self, index: int) -> str:
        """Say on which line a row stands."""
        return self._records.place(index)


class TextLines:
    """A .txt file: a row for each line that holds more than blanks, its text in the column `text`.

    Raises:
        ValueError: it has no rows.
    """

    def __init__(self, path: Path) -> None:
        self._records = _lines(path)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int, /) -> Row:
        return {"text": self._records.text(index).partition("\n")[0].rstrip("\r")}

    def place(self, index: int) -> str:
        """Say on which line a row stands."""
        return self._records.place(index)


class Csv:
    """A .csv or .tsv file (RFC 4180), whose first record names the columns.

    Raises:
        ValueError: it has no header or no rows, or names a column twice.
    """

    def __init__(self, path: Path) -> None:
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        starts = _record_starts(path, self._delimiter)
        if len(starts) < 2:
            raise ValueError(f"{path}: the file is empty; its first line is to name the columns")
        if len(starts) < 3:
            raise ValueError(f"{path}: the file has no rows")
        (self._columns,) = self._parsed(_Records(path, starts[:2]).text(0))
        doubled = [name for name in self._columns if self._columns.count(name) > 1]
        if doubled:
            raise ValueError(f"{path}: the first line names the column {doubled[0]!r} twice")
        self._records = _Records(path, starts[1:])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int, /) -> Row:
        fields = next(iter(self._parsed(self._records.text(index))))
        if len(fields) != len(self._columns):
            raise RowError(
                f"{self.place(index)}: {len(fields)} fields, where the first line names {len(self._columns)} columns:"
                f" {', '.join(map(repr, self._columns))}"
            )
        return dict(zip(self._columns, fields, strict=True))

    def place(self, index: int) -> str:
        """Say on which line a row begins."""
        return self._records.place(index)

    def _parsed(self, text: str) -> list[list[str]]:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter))


class Listed:
    """Rows in memory: a list in a config, or a .json file.

    Args:
        values: The rows.
        where: What they are called in messages.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, values: Sequence[Any], where: str) -> None:
        if not values:
            raise ValueError(f"{where}: there are no rows")
        self._values, self._where = values, where

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int, /) -> Row:
        return _object(self._values[index], self, index)

    def place(self, index: int) -> str:
        """Say which row it is, counted from 1."""
        return f"{self._where}: row {index + 1}"


class ArrowTable:
    """A table of the `datasets` library, which stays on the disk.

    Args:
        table: A `datasets.Dataset`.
        where: What it is called in messages.
    """

    def __init__(self, table: Any, where: str) -> None:  # `datasets` ships no types.
        self._table, self._where = table, where

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int, /) -> Row:
        row: Row = self._table[index]
        return row

    def place(self, index: int) -> str:
        """Say which row it is, counted from 1."""
        return f"{self._where}: row {index + 1}"


class Joined:
    """Tables one after the other."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._ends = list(itertools.accumulate(map(len, tables)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int, /) -> Row:
        table, i = self._at(index)
        return table[i]

    def place(self, index: int) -> str:
        """Say where a row stands."""
        table, i = self._at(index)
        return table.place(i)

    def _at(self, index: int) -> tuple[Table, int]:
        which = bisect.bisect_right(self._ends, index)
        return self._tables[which], index - (self._ends[which - 1] if which else 0)


def read_json(path: Path) -> Listed:
    """Read a .json file: a list of objects.

    Raises:
        ValueError: it is not valid JSON, no list, or has no rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; byte {error.start} is none") from error
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"{path}: not valid JSON at {where}: {error.msg}") from error
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a list of rows at the top, got {type(values).__name__}")  # noqa: TRY004 - the user's data is wrong, not a call.
    if not values:
        raise ValueError(f"{path}: the file has no rows")
    return Listed(values, str(path))


def _object(value: Any, table: Table, index: int) -> Row:
    if not isinstance(value, dict):
        raise RowError(
            f"{table.place(index)}: expected an object with named columns, got {type(value).__name__}"
        )
    return value


def _lines(path: Path) -> _Records:
    """Find the lines that hold more than blanks; those that follow one and do not are part of it."""
    kept: list[_Places] = []
    with path.open("rb") as file:
        start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        size = file.seek(0, io.SEEK_END)
        for at in range(0, size, _CHUNK):
            file.seek(at)
            chunk = np.frombuffer(file.read(_CHUNK), np.uint8)
            ends = np.flatnonzero(chunk == ord("\n")) + (at + 1)
            if at + len(chunk) == size and (not len(ends) or ends[-1] != size):
                ends = np.append(ends, size)  # the last line has no break behind it
            if not len(ends):
                continue
            starts = np.concatenate([[start], ends[:-1]])
            start = int(ends[-1])
            is_kept = np.ones(len(starts), dtype=bool)
            for i in np.flatnonzero(ends - starts <= _SHORT):
                file.seek(starts[i])
                is_kept[i] = bool(file.read(ends[i] - starts[i]).strip())
            kept.append(starts[is_kept])
    found = np.concatenate([*kept, np.array([size])]).astype(np.int64)
    if len(found) == 1:
        raise ValueError(f"{path}: the file has no rows")
    return _Records(path, found)


def _record_starts(path: Path, delimiter: str) -> _Places:
    """Find where the records of a CSV file begin, and where the last ends; a field in quotes may hold line breaks."""
    starts: list[int] = []
    at = 0

    def lines(file: io.BufferedReader) -> Iterator[str]:
        nonlocal at
        for line in file:
            at += len(line)
            yield line.decode("utf-8", errors="replace")  # what is no UTF-8 is named when it is read

    with path.open("rb") as file:
        at = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(at)
        begin = at
        for fields in csv.reader(lines(file), delimiter=delimiter):
            if fields:
                starts.append(begin)
            begin = at
    return np.array([*starts, at], dtype=np.int64)
