"""JSON texts, read so that nothing in them is lost without an error."""

import json
from typing import Any

_LONGEST = 60
"""How much of a key or number is quoted in a message (characters)."""


class JsonError(ValueError):
    """A text is not JSON, or says something that Python would read as something else."""


def parse_line(text: str) -> Any:
    """Read the JSON text that a line holds.

    Raises:
        JsonError: The line is not one value; the message has the column and what is wrong.
    """
    try:
        return _parse(text, _STRICT.decode)
    except json.JSONDecodeError as error:
        raise JsonError(f"not valid JSON at column {error.colno}: {error.msg}{_hint(error)}") from error


def parse_text(text: str) -> Any:
    """Read the JSON text that a column holds.

    Raises:
        JsonError: The text is not one value; the message has the column and what is wrong.
    """
    try:
        return _parse(text, _STRICT.decode)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at character {error.pos + 1}") from error


def parse_first(text: str) -> Any:
    """Read the JSON text that a string begins with, which is known to be valid.

    Raises:
        JsonError: It has a key twice, or holds what is not a JSON number.
    """
    return _parse(text, _STRICT.raw_decode)[0]


def _parse(text: str, decode: Any) -> Any:
    try:
        return decode(text)
    except (json.JSONDecodeError, JsonError):
        raise
    except RecursionError as error:
        raise JsonError("the value is nested too deeply to be read") from error
    except ValueError as error:  # an integer of more than 4,300 digits
        raise JsonError(f"a number cannot be read: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(
            f"an object has the key {twice[:_LONGEST]!r} twice; remove the value that is not meant"
        )
    return value


def _constant(name: str) -> Any:
    raise JsonError(f"{name} is not a JSON value; write null or a number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise JsonError(f"the number {text[:_LONGEST]} is too large for a float")
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _hint(error: json.JSONDecodeError) -> str:
    """Say what probably happened, by the text at the error."""
    rest = error.doc[error.pos :].strip()
    if error.msg == "Extra data":
        if rest == ",":
            return "; remove the comma at the end of the line"
        return "; a line holds one row and nothing after it"
    if not rest or error.msg.startswith("Unterminated string"):
        return "; the line ends within the row: a row is to be on one line"
    if rest.startswith("'"):
        return "; JSON has double quotes: write rows with json.dumps, not str"
    return ""
