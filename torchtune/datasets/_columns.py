"""Read the columns of rows, and record the columns that were read."""

from collections.abc import ItemsView, Mapping, Sequence
from typing import Any

from torchtune.datasets._tables import Row, lone_surrogate


class TrackedRow(dict[str, Any]):
    """A row that records the columns that were read, so that unread columns can be reported."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Read a column, or return the default if it is missing."""
        self.read.add(name)
        return super().get(name, default)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # a view of the same pairs
        """Read all columns."""
        self.read.update(self)
        return super().items()

    def unread(self) -> tuple[str, ...]:
        """Return the columns that have a value but were not read."""
        others = self.keys() - self.read
        if not others:
            return ()
        return tuple(name for name, value in super().items() if name in others and not _is_empty(value))


def _is_empty(value: object) -> bool:
    is_empty_array = getattr(value, "size", None) == 0  # a NumPy array, in rows passed in memory
    return value is None or is_empty_array or (isinstance(value, (str, list, dict, tuple)) and not value)


def check_characters(name: str, value: Any) -> None:
    """Check the characters of a string, or of the strings in a list or an object.

    Raises:
        ValueError: A string contains an unpaired surrogate, which no tokenizer can encode.
    """
    surrogate = lone_surrogate(value)
    if surrogate:
        raise ValueError(
            f"{name} contains {surrogate!a}, an unpaired surrogate, which is not a valid character"
        )


def column(row: Row, name: str, field_name: str, setting: str = "columns") -> str:
    """Read a column that must contain text.

    Args:
        row: Columns by name.
        name: The column's name in the row.
        field_name: The field that the column is read as, for messages; the same as `name` unless it is renamed.
        setting: The setting that renames columns.

    Raises:
        ValueError: The column is missing (the message lists the row's columns) or does not contain text.
    """
    value = required_column(row, name, field_name, setting)
    if not isinstance(value, str):
        raise ValueError(f"{name!r}: expected text, got {'null' if value is None else repr(value)}")  # noqa: TRY004 -- invalid data, not an argument of the wrong type
    return value


def optional_text(row: Row, name: str | None) -> str:
    """Read an optional text column; return "" if it is missing or null, or has no name.

    Raises:
        ValueError: The value is not text.
    """
    if name is None or name not in row:
        return ""
    value = row[name]
    if not isinstance(value, str | None):
        raise ValueError(f"{name!r}: expected text, got {value!r}")  # noqa: TRY004 -- invalid data, not an argument of the wrong type
    return value or ""


def required_column(row: Row, name: str, field_name: str, setting: str = "columns") -> object:
    """Read a required column of any type.

    Raises:
        ValueError: The column is missing; the message lists the row's columns.
    """
    if name not in row:
        purpose = "" if name == field_name else f" for the {field_name}"
        example = f"{{{field_name}: NAME}}" if setting == "columns" else "NAME"
        raise ValueError(
            f"no column {name!r}{purpose}; {columns_of(row)}; to read a different column, set"
            f" dataset.{setting}={example}"
        )
    value: object = row[name]
    return value


def columns_of(row: Row) -> str:
    """List a row's columns, for a message."""
    return f"the row's columns are {', '.join(map(repr, row)) or '(none)'}"


def checked_columns(
    columns: dict[str, str] | None, names: Sequence[str], required: Sequence[str]
) -> dict[str, str]:
    """Return the column name of each field.

    A column that is used for a different field is read only as that field: `{instruction: input}` leaves no column for
    the field `input`.

    Args:
        columns: Column names by field, for columns that are not named after their field.
        names: The fields.
        required: The fields that must have a column.

    Raises:
        ValueError: A field is unknown or has no column, or a column is used for two fields.
    """
    columns = columns or {}
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise ValueError(f"columns: unknown field {unknown[0]!r}; expected {', '.join(names)}")
    field_of: dict[str, str] = {}
    for name, column in columns.items():
        if column in field_of:
            raise ValueError(
                f"columns: the column {column!r} is used for both {field_of[column]} and {name}; use it for one"
            )
        field_of[column] = name
    column_of = {name: columns.get(name, name) for name in names if name in columns or name not in field_of}
    for name in required:
        if name not in column_of:
            raise ValueError(
                f"columns: the column {name!r} is used for {field_of[name]}, so it cannot also be used for {name};"
                f" set {name} to a different column"
            )
    return column_of
