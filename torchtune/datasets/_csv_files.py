"""CSV and TSV files (RFC 4180): a row for each record, under the names of the first."""

import csv
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from torchtune._counted import counted
from torchtune.datasets._compressed import ending
from torchtune.datasets._records import Offsets, Records, TextFile
from torchtune.datasets._tables import Row, RowError

_LONGEST_FIELD = 2**31 - 1
"""Longest field that the csv module is to read; it stops at 131,072 characters by itself."""
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


class Csv(Records):
    """A .csv or .tsv file, whose first record names the columns.

    Raises:
        ValueError: It has no rows, its header is empty, names a column twice or not at all, a quote is never closed, or
            something stands between a closing quote and the next separator.
    """

    def __init__(self, path: Path) -> None:
        self._separator = "\t" if ending(path) == ".tsv" else ","
        file = TextFile(path)
        starts = _find_records(file, self._separator)
        if len(starts) < 2:
            raise ValueError(f"{path}: the file is empty; its first line is to name the columns")
        super().__init__(file, starts)
        self._columns = self._fields(0)
        self._check_columns(path)
        if len(starts) < 3:
            raise ValueError(f"{path}: the file has no rows, only a line of column names")
        self.starts = starts[1:]

    def __getitem__(self, index: int, /) -> Row:
        fields = self._fields(index)
        if len(fields) != len(self._columns):
            columns = counted(len(self._columns), "column")
            raise RowError(
                f"{self.place(index)}: {counted(len(fields), 'field')}, where the first line names {columns}:"
                f" {', '.join(map(repr, self._columns))}; a field that holds {_SEPARATORS[self._separator]} or line"
                " breaks is to be in double quotes"
            )
        return dict(zip(self._columns, fields, strict=True))

    def _fields(self, index: int) -> list[str]:
        return next(_fields(iter([self.text(index)]), self._separator))

    def _check_columns(self, path: Path) -> None:
        """Reject a header that names no columns, or that is separated by something else.

        Raises:
            ValueError: The message says what to do.
        """
        names = self._columns
        doubled = [name for name in names if names.count(name) > 1 and name.strip()]
        if doubled:
            raise ValueError(f"{path}: the first line names the column {doubled[0]!r} twice; rename one")
        separators = [mark for mark in _SEPARATORS if mark in names[0]]
        if len(names) == 1 and separators:
            raise ValueError(
                f"{path}: the first line names the single column {names[0]!r}; fields seem to be separated by"
                f" {_SEPARATORS[separators[0]]}, where a {ending(path)} file has {_SEPARATORS[self._separator]}; "
                + _other_format(separators[0])
            )
        unnamed = [i for i, name in enumerate(names, 1) if not name.strip()]
        if unnamed:
            raise ValueError(
                f"{path}: the first line gives column {unnamed[0]} of {len(names)} no name; name it, or leave it out"
                " (pandas writes row numbers so, unless to_csv has index=False)"
            )


def _other_format(separator: str) -> str:
    if separator == "\t":
        return "rename the file to end in .tsv"
    return "rename the file to end in .csv" if separator == "," else "save it with commas"


def _fields(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    """Parse records; a quote within a field that does not begin with one is part of its text."""
    if csv.field_size_limit() < _LONGEST_FIELD:
        csv.field_size_limit(_LONGEST_FIELD)
    yield from csv.reader(lines, delimiter=separator, strict=True)


def _find_records(file: TextFile, separator: str) -> Offsets:
    """Find where records begin, and where the last ends; a field in quotes may hold line breaks.

    Raises:
        ValueError: A field cannot be read.
    """
    starts = array("q")
    begin = end = file.start

    def lines() -> Iterator[str]:
        nonlocal end
        for line in _lines(file):
            end += len(line)
            yield line.decode("latin-1")  # separators and quotes are the same bytes in UTF-8

    try:
        for fields in _fields(lines(), separator):
            if fields:
                starts.append(begin)
            begin = end
    except csv.Error as error:
        raise _field_error(file, begin, end, separator) from error
    starts.append(end)
    return np.frombuffer(starts, np.int64)


def _lines(file: TextFile) -> Iterator[bytes]:
    """Yield the lines of a file with their ends."""
    rest = b""
    for _, chunk in file.chunks(file.start):
        *whole, rest = (rest + chunk).split(file.newline)
        for line in whole:
            yield line + file.newline
    if rest:
        yield rest


def _field_error(file: TextFile, begin: int, end: int, separator: str) -> ValueError:
    """Describe the field that cannot be read of the record between two positions."""
    text = file.read(begin, end).decode("latin-1")
    quoted_or_plain = re.compile(rf'"(?:[^"]+|"")*+"(?={separator}|[\r\n]|$)|(?!")[^{separator}\r\n]*')
    at = 0
    while True:
        field = quoted_or_plain.match(text, at)
        if field is None:
            break
        at = field.end()
        if text[at : at + 1] != separator:
            return ValueError(
                f"{file.path}: line {file.line(begin + at)}: a carriage return outside quotes; save the file with one"
                " kind of line ends, or put the field in double quotes"
            )
        at += 1
    line, column = file.line(begin + at), file.column(begin + at)
    closing = re.compile(r'"(?:[^"]+|"")*+"').match(text, at)
    if closing is None:
        return ValueError(
            f"{file.path}: line {line}: the quote that opens at column {column} is never closed; close it, or write"
            ' a quote that begins a field as three: """'
        )
    after = begin + closing.end()
    return ValueError(
        f"{file.path}: line {line}: the field that opens with a quote at column {column} continues after its"
        f' closing quote on line {file.line(after)}, column {file.column(after)}; write quotes within quotes twice: ""'
    )
