"""What tests of sources have in common: reading all rows, or the message of what is wrong."""

from pathlib import Path
from typing import Any

from torchtune.datasets import RowError, open_source


def rows_of(source: Any, **settings: Any) -> list[dict[str, Any]]:
    """Read all rows of a source."""
    table = open_source(str(source) if isinstance(source, Path) else source, **settings)
    return [table[i] for i in range(len(table))]


def error_of(source: Any, **settings: Any) -> str:
    """Return the message with which a source, or its first bad row, is rejected; paths without their folder."""
    try:
        rows = rows_of(source, **settings)
    except (ValueError, OSError) as error:
        return str(error).replace(f"{Path(source).parent}/" if isinstance(source, (str, Path)) else "", "")
    raise AssertionError(f"nothing is wrong with {rows}")


def usable_rows(source: Any) -> list[dict[str, Any]]:
    """Read the rows that can be used, as `on_error=skip` does."""
    table = open_source(str(source) if isinstance(source, Path) else source)
    rows = []
    for i in range(len(table)):
        try:
            rows.append(table[i])
        except RowError:
            continue
    return rows
