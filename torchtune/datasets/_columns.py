"""Columns of rows: reading them, and knowing which were not read."""

from collections.abc import ItemsView, Mapping, Sequence
from typing import Any

from torchtune.datasets._tables import Row, lone_surrogate


class ReadRow(dict[str, Any]):
    """A row that knows which of its columns were read, so that the others can be reported."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Read a column, or take the default where there is none."""
        self.read.add(name)
        return super().get(name, default)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # a view of the same pairs
        """Read all columns."""
        self.read.update(self)
        return super().items()

    def unread(self) -> tuple[str, ...]:
        """Return the columns that hold something and were not read."""
        others = self.keys() - self.read
        if not others:
            return ()
        return tuple(name for name, value in super().items() if name in others and not _is_empty(value))


def _is_empty(value: object) -> bool:
    is_empty_array = getattr(value, "size", None) == 0  # numpy's, in rows that are given in memory
    return value is None or is_empty_array or (isinstance(value, (str, list, dict, tuple)) and not value)


def check_characters(name: str, value: Any) -> None:
    """Check a text, or those in a list or an object.

    Raises:
        ValueError: one contains half of a surrogate pair, which no tokenizer can encode.
    """
    half = lone_surrogate(value)
    if half:
        raise ValueError(f"{name}: contains {half!a}, half of a surrogate pair, which is not a character")


def column(row: Row, name: str, what: str, setting: str = "columns") -> str:
    """Read a column that must hold text.

    Args:
        row: Columns by name.
        name: The column's name there.
        what: What it is called in messages; the same as `name` where nobody renamed it.
        setting: The setting that names columns.

    Raises:
        ValueError: it is missing or holds something else; the message has the columns found.
    """
    value = required(row, name, what, setting)
    if not isinstance(value, str):
        raise ValueError(f"{name!r}: expected text, got {'null' if value is None else repr(value)}")  # noqa: TRY004 - the user's data is wrong, not a call.
    return value


def optional_text(row: Row, name: str | None) -> str:
    """Read a column that may hold text; "" where it is missing, null, or has no name.

    Raises:
        ValueError: it holds something else.
    """
    if name is None or name not in row:
        return ""
    value = row[name]
    if not isinstance(value, str | None):
        raise ValueError(f"{name!r}: expected text, got {value!r}")  # noqa: TRY004 - the user's data is wrong, not a call.
    return value or ""


def required(row: Row, name: str, what: str, setting: str = "columns") -> object:
    """Read a column, whatever it holds.

    Raises:
        ValueError: it is missing; the message has the columns found.
    """
    if name not in row:
        of = "" if name == what else f", which is to be the {what}"
        example = f"{{{what}: NAME}}" if setting == "columns" else "NAME"
        raise ValueError(
            f"no column {name!r}{of}; {columns_of(row)}; dataset.{setting}={example} names another"
        )
    value: object = row[name]
    return value


def columns_of(row: Row) -> str:
    """List a row's columns for a message."""
    return f"the columns found are {', '.join(map(repr, row)) or 'none'}"


def checked_columns(
    columns: dict[str, str] | None, names: Sequence[str], required: Sequence[str]
) -> dict[str, str]:
    """Return every column's name in the file, by our own.

    A name that stands for another column in the file is that column's alone: `{instruction: input}` says that there
    is no `input` besides.

    Raises:
        ValueError: a name of ours is none, or a column is to be read twice.
    """
    columns = columns or {}
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise ValueError(f"columns: expected names for {', '.join(names)}, got one for {unknown[0]!r}")
    taken: dict[str, str] = {}
    for name, column in columns.items():
        if column in taken:
            raise ValueError(
                f"columns: {column!r} is named for both {taken[column]} and {name}; name it once"
            )
        taken[column] = name
    chosen = {name: columns.get(name, name) for name in names if name in columns or name not in taken}
    for name in required:
        if name not in chosen:
            raise ValueError(
                f"columns: {name!r} is named for {taken[name]}; name a column for the {name} too"
            )
    return chosen
