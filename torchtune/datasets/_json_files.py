"""JSON files: a list of rows or one row per line, detected from the content rather than the file name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchtune.datasets._compressed import ending
from torchtune.datasets._json_list import find_items
from torchtune.datasets._json_object import describe_object
from torchtune.datasets._json_values import JsonError, parse_first, parse_line
from torchtune.datasets._records import Records, TextFile, find_lines
from torchtune.datasets._tables import Row, RowError, Table, check_text, to_row

_OBJECT_LIMIT = 2**26
"""Number of bytes to search for the end of an object that spans lines."""


def open_json(path: Path) -> Table:
    """Open a JSON file.

    Raises:
        ValueError: The file has no rows, is neither a list of rows nor one row per line, or is not text.
    """
    file = TextFile(path)
    if _first_byte(file) == b"[":
        items = find_items(file)
        if items is not None:
            return JsonList(file, items)
    lines = JsonLines(file, find_lines(file))
    _check_first_line(lines, is_json=ending(path) == ".json")
    return lines


class JsonLines(Records):
    """A file with one row per line."""

    def __getitem__(self, index: int, /) -> Row:
        text = self.text(index).removeprefix("\ufeff").rstrip()  # left over from concatenated files
        return _read(text, parse_line, self, index)


class JsonList(Records):
    """A file that contains one list of rows."""

    def location(self, index: int) -> str:
        """Return a row's number, counted from 1, and its line number if the line is not the first."""
        line = self.line(index)
        return f"{self.file.path}: row {index + 1}" + (f" (line {line})" if line > 1 else "")

    def __getitem__(self, index: int, /) -> Row:
        return _read(self.text(index), parse_first, self, index)


def _read(text: str, parse: Callable[[str], Any], table: Table, index: int) -> Row:
    """Parse a record as a row.

    Raises:
        RowError: The record is not JSON, or not a row.
    """
    try:
        value = parse(text)
    except JsonError as error:
        raise RowError(f"{table.location(index)}: {error}") from error
    row = to_row(value, table, index)
    if "\\ud" in text or "\\uD" in text:  # UTF-8 itself cannot encode a surrogate
        check_text(row, table, index)
    return row


def _first_byte(file: TextFile) -> bytes:
    """Return the first byte that is not white space.

    Raises:
        ValueError: The file has only white space.
    """
    for _, chunk in file.chunks(file.start):
        text = chunk.lstrip()
        if text:
            return text[:1]
    raise ValueError(f"{file.path}: the file has no rows")


def _check_first_line(lines: Records, is_json: bool) -> None:
    """Reject a .json file that contains a single object, and a file of objects that span lines.

    Raises:
        ValueError: The message describes the content and how to fix it.
    """
    start, end = int(lines.starts[0]), int(lines.starts[1])
    text = lines.file.read(start, end).decode(errors="replace")
    if not text.startswith("{"):
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        _check_spanning_object(lines, is_json)
    else:
        if is_json and len(lines) == 1:
            raise ValueError(f"{lines.file.path}: {describe_object(value)}")


def _check_spanning_object(lines: Records, is_json: bool) -> None:
    """Reject a file that begins with an object that spans lines.

    Raises:
        ValueError: The message describes the content and how to fix it.
    """
    file = lines.file
    line = lines.line(0)
    start = int(lines.starts[0])
    text = file.read(start, min(start + _OBJECT_LIMIT, file.size)).decode(errors="replace")
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        if not is_json or error.lineno == 1:
            return  # it is reported when the row is read
        problem = f"not valid JSON at column {error.colno}: {error.msg}"
        if file.size - start > _OBJECT_LIMIT:
            problem = "expected a list of rows or one row per line, got one object that does not end"
        raise ValueError(f"{file.path}: line {line + error.lineno - 1}: {problem}") from error
    except (ValueError, RecursionError):
        return
    n_lines = text.count("\n", 0, end)
    if n_lines and is_json and not text[end:].strip():
        raise ValueError(f"{file.path}: {describe_object(value)}")
    if n_lines:
        raise ValueError(
            f"{file.path}: line {line}: the object that begins here ends on line {line + n_lines}; write each row on"
            " one line, or all rows as one list: [{...}, {...}]"
        )
