"""Tables: rows by index, read on demand from wherever they are stored."""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

from attrs import define

Row = dict[str, Any]
"""Columns by name, with the values of the source."""


class RowError(ValueError):
    """A row cannot be used; the message begins with its location."""


class Table(Protocol):
    """Rows by index."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int, /) -> Row:
        """Read one row.

        Raises:
            RowError: The row cannot be read.
        """

    def location(self, index: int) -> str:
        """Return the location of a row, such as `rows.jsonl: line 3`."""


@define(eq=False, repr=False, slots=False)
class NumberedTable(Table):
    """A table whose rows have a number as their location."""

    name: str
    """The name of the table in messages."""

    def location(self, index: int) -> str:
        """Return the number of a row, counted from 1."""
        return f"{self.name}: row {index + 1}"


@define(eq=False, repr=False, slots=False)
class RowList(NumberedTable):
    """Rows in memory. A string is a row with the column `text`."""

    values: Sequence[Any]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int, /) -> Row:
        row = to_row(self.values[index], self, index)
        check_text(row, self, index)
        return row


@define(eq=False, repr=False, slots=False)
class ArrowTable(NumberedTable):
    """A table of the `datasets` library, which stays on disk."""

    table: Any
    """A `datasets.Dataset`, which has no types."""

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int, /) -> Row:
        return without_filled_nulls(self.table[index], self.table.features)


class JoinedTable:
    """Concatenated tables."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._ends = list(itertools.accumulate(map(len, tables)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int, /) -> Row:
        table, i = self._locate(index)
        return table[i]

    def location(self, index: int) -> str:
        """Return the location of a row."""
        table, i = self._locate(index)
        return table.location(i)

    def _locate(self, index: int) -> tuple[Table, int]:
        i = bisect.bisect_right(self._ends, index)
        return self._tables[i], index - (self._ends[i - 1] if i else 0)


@define(eq=False, repr=False, slots=False)
class SlicedTable:
    """A range of the rows of a table."""

    table: Table
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        return self.table[self.rows[index]]

    def location(self, index: int) -> str:
        """Return the location of a row."""
        return self.table.location(self.rows[index])


def join(tables: Sequence[Table]) -> Table:
    """Concatenate tables; a single table is returned unchanged."""
    return tables[0] if len(tables) == 1 else JoinedTable(tables)


def to_row(value: Any, table: Table, index: int) -> Row:
    """Return a value of a source as a row: an object unchanged, a string as the column `text`.

    Raises:
        RowError: The value is neither an object nor a string.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    raise RowError(
        f"{table.location(index)}: expected an object with named columns, or a string, got {type(value).__name__}"
    )


def check_text(row: Row, table: Table, index: int) -> None:
    """Check that a row contains no unpaired surrogate, such as U+D83D, which no tokenizer can encode.

    Raises:
        RowError: A column, or a value nested in it, contains an unpaired surrogate.
    """
    for name, value in row.items():
        surrogate = lone_surrogate(name) or lone_surrogate(value)
        if surrogate:
            raise RowError(
                f"{table.location(index)}: column {name!r} contains {surrogate!a}, an unpaired surrogate, which is not"
                " a valid character; fix or remove it (the text was probably truncated in the middle of an emoji)"
            )


def lone_surrogate(value: Any) -> str | None:
    """Return the first unpaired surrogate in a string, or in the strings of a list or an object, if there is one."""
    if isinstance(value, str):
        if value.isascii():
            return None
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return value[error.start]
        return None
    if isinstance(value, dict):
        value = itertools.chain(value, value.values())
    elif not isinstance(value, (list, tuple)):
        return None
    return next(filter(None, map(lone_surrogate, value)), None)


def without_filled_nulls(row: Row, features: Any = None) -> Row:
    """Remove null keys from nested structs, at any depth.

    All rows of an Arrow column have the same keys, and Arrow fills in null where a row lacks a key. Nulls from the
    original data look the same and are removed too. A struct whose keys are all null becomes `{}`, not null, because
    Arrow distinguishes the two. Null columns, null items of lists, and values stored as JSON stay unchanged.

    Args:
        row: A row of `datasets`.
        features: Its `datasets.Features`. None: unknown.
    """
    return {name: _without_nulls(value, (features or {}).get(name)) for name, value in row.items()}


def _without_nulls(value: Any, feature: Any) -> Any:
    if getattr(feature, "_type", None) == "Json":  # decoded by `datasets`: no keys are filled in
        return value
    if isinstance(value, dict):
        features = feature if isinstance(feature, dict) else {}
        return {
            key: _without_nulls(item, features.get(key)) for key, item in value.items() if item is not None
        }
    if isinstance(value, list):
        item_feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        return [_without_nulls(item, item_feature) for item in value]
    return value
