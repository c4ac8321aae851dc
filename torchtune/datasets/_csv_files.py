"""CSV and TSV files (RFC 4180): the first record contains the column names, and every other record is a row."""

import csv
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from torchtune._pluralize import pluralize
from torchtune.datasets._compressed import ending
from torchtune.datasets._records import Offsets, Records, TextFile
from torchtune.datasets._tables import Row, RowError

_MAX_FIELD_LENGTH = 2**31 - 1
"""Field size limit for the csv module, whose default is 131,072 characters."""
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


class Csv(Records):
    """A .csv or .tsv file, whose first record contains the column names.

    Raises:
        ValueError: The file is empty or has no rows, a column name is missing or duplicated, a quote is never closed,
            or a closing quote is not followed by a separator.
    """

    def __init__(self, path: Path) -> None:
        self._separator = "\t" if ending(path) == ".tsv" else ","
        file = TextFile(path)
        starts = _find_records(file, self._separator)
        if len(starts) < 2:
            raise ValueError(f"{path}: the file is empty; its first line must name the columns")
        super().__init__(file, starts)
        self._columns = self._fields(0)
        self._check_columns(path)
        if len(starts) < 3:
            raise ValueError(f"{path}: the file has no rows, only column names")
        self.starts = starts[1:]

    def __getitem__(self, index: int, /) -> Row:
        fields = self._fields(index)
        if len(fields) != len(self._columns):
            expected = pluralize(len(self._columns), "field")
            raise RowError(
                f"{self.location(index)}: expected {expected} ({', '.join(map(repr, self._columns))}), got"
                f" {len(fields):,}; put a field that contains {_SEPARATORS[self._separator]} or line breaks in double"
                " quotes"
            )
        return dict(zip(self._columns, fields, strict=True))

    def _fields(self, index: int) -> list[str]:
        return next(_fields(iter([self.text(index)]), self._separator))

    def _check_columns(self, path: Path) -> None:
        """Check the column names.

        Raises:
            ValueError: A name is missing or duplicated, or the names are separated by a different character.
        """
        names = self._columns
        duplicates = [name for name in names if names.count(name) > 1 and name.strip()]
        if duplicates:
            raise ValueError(f"{path}: the first line names the column {duplicates[0]!r} twice; rename one")
        separators = [mark for mark in _SEPARATORS if mark in names[0]]
        if len(names) == 1 and separators:
            raise ValueError(
                f"{path}: the first line names only one column, {names[0]!r}; fields seem to be separated by"
                f" {_SEPARATORS[separators[0]]}, but a {ending(path)} file uses {_SEPARATORS[self._separator]}; "
                + _separator_fix(separators[0])
            )
        unnamed = [i for i, name in enumerate(names, 1) if not name.strip()]
        if unnamed:
            raise ValueError(
                f"{path}: the first line has no name for column {unnamed[0]} of {len(names)}; name it, or remove it"
                " (if it contains row numbers from pandas, pass index=False to to_csv)"
            )


def _separator_fix(separator: str) -> str:
    """Return advice for a file that uses a different separator."""
    if separator == "\t":
        return "rename the file to end in .tsv"
    return "rename the file to end in .csv" if separator == "," else "save it with commas"


def _fields(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    """Parse records. A quote inside a field that does not begin with one is part of the text."""
    if csv.field_size_limit() < _MAX_FIELD_LENGTH:
        csv.field_size_limit(_MAX_FIELD_LENGTH)
    yield from csv.reader(lines, delimiter=separator, strict=True)


def _find_records(file: TextFile, separator: str) -> Offsets:
    """Return the start of each record, and the end of the last one. A quoted field may contain line breaks.

    Raises:
        ValueError: A field cannot be parsed.
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
    """Yield the lines of a file, each with its line ending."""
    remaining = b""
    for _, chunk in file.chunks(file.start):
        *lines, remaining = (remaining + chunk).split(file.newline)
        for line in lines:
            yield line + file.newline
    if remaining:
        yield remaining


def _field_error(file: TextFile, begin: int, end: int, separator: str) -> ValueError:
    """Build the error for a field that cannot be parsed, in the record between two positions."""
    text = file.read(begin, end).decode("latin-1")
    quoted_or_plain = re.compile(rf'"(?:[^"]+|"")*+"(?={separator}|[\r\n]|$)|(?!")[^{separator}\r\n]*')
    position = 0
    while True:
        field = quoted_or_plain.match(text, position)
        if field is None:
            break
        position = field.end()
        if text[position : position + 1] != separator:
            return ValueError(
                f"{file.path}: line {file.line(begin + position)}: carriage return outside quotes; use the same line"
                " ending throughout the file, or enclose the field in double quotes"
            )
        position += 1
    line, column = file.line(begin + position), file.column(begin + position)
    closing = re.compile(r'"(?:[^"]+|"")*+"').match(text, position)
    if closing is None:
        return ValueError(
            f"{file.path}: line {line}: the quote that opens at column {column} is never closed; close it, or write"
            ' a literal quote at the start of a field as """'
        )
    closing_end = begin + closing.end()
    return ValueError(
        f"{file.path}: line {line}: the field that opens with a quote at column {column} continues after its"
        f" closing quote on line {file.line(closing_end)}, column {file.column(closing_end)};"
        ' write a literal quote inside quotes as ""'
    )
