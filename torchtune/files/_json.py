"""JSON files that hold an object."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; fetch it again") from error
    if not isinstance(value, dict):
        # The file is wrong, not an argument's type.
        raise ValueError(f"{path} does not hold a JSON object; fetch it again")  # noqa: TRY004
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object readably."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def unexpected(path: Path, name: str, value: Any, what: str) -> ValueError:
    """Return the error of a file in which a value is not what it has to be."""
    return ValueError(f"{path}: {name} is {reprlib.repr(value)}, {what} is expected; fetch it again")
