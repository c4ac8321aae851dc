"""Strict JSON parsing, which rejects values that Python would lose or misread."""

import json
from typing import Any

_MAX_QUOTED = 60
"""Maximum length of a key or number that a message quotes (characters)."""


class JsonError(ValueError):
    """Text is not valid JSON, or contains a value that Python would lose or misread."""


def parse_line(text: str) -> Any:
    """Parse the JSON value on a line.

    Raises:
        JsonError: The line is not one valid value; the message has the column and the problem.
    """
    try:
        return _parse(text, _STRICT.decode)
    except json.JSONDecodeError as error:
        raise JsonError(f"not valid JSON at column {error.colno}: {error.msg}{_hint(error)}") from error


def parse_text(text: str) -> Any:
    """Parse the JSON text in a column.

    Raises:
        JsonError: The text is not one valid value; the message has the problem and the character.
    """
    try:
        return _parse(text, _STRICT.decode)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at character {error.pos + 1}") from error


def parse_first(text: str) -> Any:
    """Parse the JSON value at the start of text that Python is known to accept.

    Raises:
        JsonError: An object has a key twice, or a number is not valid in JSON or cannot be represented.
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
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(f"an object has the key {duplicate[:_MAX_QUOTED]!r} twice; remove one of them")
    return value


def _constant(name: str) -> Any:
    raise JsonError(f"{name} is not a JSON value; use null or a number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise JsonError(f"the number {text[:_MAX_QUOTED]} is too large for a float")
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _hint(error: json.JSONDecodeError) -> str:
    """Return advice on the probable cause of an error, from the text at its position."""
    remaining = error.doc[error.pos :].strip()
    if error.msg == "Extra data":
        if remaining == ",":
            return "; remove the comma at the end of the line"
        return "; write one row per line and nothing after it"
    if not remaining or error.msg.startswith("Unterminated string"):
        return "; the line ends inside the row: write each row on one line"
    if remaining.startswith("'"):
        return "; JSON uses double quotes: write rows with json.dumps, not str"
    return ""
