"""Rows of local JSON files, with the place of each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

LOCAL_SUFFIXES = (".json", ".jsonl")


@frozen
class LocalRow:
    """A row, and where it stands for messages."""

    place: str
    columns: dict[str, Any]  # Whatever the file holds.


def read_local_rows(path: Path) -> list[LocalRow]:
    """Read a .json file, a list of objects, or a .jsonl file, an object a line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, is not valid JSON, has no rows, or a row is no object.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; paths are looked up from {Path.cwd()}")
    if not path.is_file() or path.suffix.lower() not in LOCAL_SUFFIXES:
        raise ValueError(
            f"{path}: expected a file of rows ending in {' or '.join(LOCAL_SUFFIXES)}, or the name of a data"
            " set on the Hugging Face hub"
        )
    read = _read_lines if path.suffix.lower() == ".jsonl" else _read_list
    rows = [_checked(place, value) for place, value in read(path)]
    if not rows:
        raise ValueError(f"{path}: the file has no rows")
    return rows


def _read_list(path: Path) -> Iterator[tuple[str, Any]]:
    values = _parse(str(path), _text(path))
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a list of rows at the top, got {type(values).__name__}")  # noqa: TRY004 - the user's data is wrong, not a call.
    for number, value in enumerate(values, start=1):
        yield f"{path}: row {number}", value


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    # Only "\n" ends a line: str.splitlines would also break rows at characters JSON allows in text.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            place = f"{path}: line {number}"
            yield place, _parse(place, line)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; byte {error.start} is none") from error


def _parse(place: str, text: str) -> Any:  # JSON holds anything.
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"{place}: not valid JSON at {where}: {error.msg}") from error


def _checked(place: str, value: Any) -> LocalRow:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object with named columns, got {type(value).__name__}")  # noqa: TRY004 - the user's data is wrong, not a call.
    return LocalRow(place, value)
