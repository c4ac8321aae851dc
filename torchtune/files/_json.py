"""Read and write JSON files that contain an object."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not valid JSON, or does not contain an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; download it again") from error
    if not isinstance(value, dict):
        # The file is wrong, not the type of an argument.
        raise ValueError(f"{path} does not contain a JSON object; download it again")  # noqa: TRY004
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented by two spaces."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def unexpected_value(path: Path, name: str, value: Any, expected: str) -> ValueError:
    """Return the error for an invalid value in a downloaded JSON file."""
    return ValueError(f"{path}: {name} is {reprlib.repr(value)}; expected {expected}; download it again")
