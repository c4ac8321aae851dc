"""Helpers for tests of sources: read all rows, or return the error message."""

from pathlib import Path
from typing import Any

from torchtune.datasets import RowError, open_data_source


def rows_of(source: Any, **settings: Any) -> list[dict[str, Any]]:
    """Read all rows of a source."""
    table = open_data_source(str(source) if isinstance(source, Path) else source, **settings)
    return [table[i] for i in range(len(table))]


def error_of(source: Any, **settings: Any) -> str:
    """Return the error message for a source or its first invalid row, without the source's folder."""
    try:
        rows = rows_of(source, **settings)
    except (ValueError, OSError) as error:
        return str(error).replace(f"{Path(source).parent}/" if isinstance(source, (str, Path)) else "", "")
    raise AssertionError(f"no error was raised for {rows}")


def usable_rows(source: Any) -> list[dict[str, Any]]:
    """Read the valid rows of a source, like `on_error=skip`."""
    table = open_data_source(str(source) if isinstance(source, Path) else source)
    rows = []
    for i in range(len(table)):
        try:
            rows.append(table[i])
        except RowError:
            continue
    return rows
