"""Rows of instruction data, wherever they come from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from attrs import frozen

from torchtune.datasets._hub import load_hub_table
from torchtune.datasets._local import LOCAL_SUFFIXES, LocalRow, read_local_rows

COLUMNS = ("instruction", "input", "output")
"""The fields of Stanford Alpaca, https://github.com/tatsu-lab/stanford_alpaca, "Data Release"."""


@frozen
class AlpacaRow:
    """A task, what it is to be done with (often nothing), and its answer."""

    instruction: str
    input: str
    output: str

    @classmethod
    def of(cls, place: str, columns: Mapping[str, Any]) -> Self:  # Any: whatever a file holds.
        """Check what a row holds; an input of null, or none at all, is an empty one.

        Args:
            place: Where the row stands, for messages.
            columns: What was found there.

        Raises:
            ValueError: a column is missing or holds no text.
        """
        check_columns(place, list(columns))
        values = {name: columns.get(name, "") for name in COLUMNS}
        if values["input"] is None:
            values["input"] = ""
        for name, value in values.items():
            if not isinstance(value, str):
                raise ValueError(f"{place}: {name!r}: expected text, got {value!r}")  # noqa: TRY004 - the user's data is wrong, not a call.
        if not (values["instruction"].strip() or values["input"].strip()):
            raise ValueError(f"{place}: 'instruction' and 'input' are both empty; there is nothing to answer")
        return cls(**values)


class AlpacaRows(Protocol):
    """Rows by number, and where each stands."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int, /) -> AlpacaRow:
        """Take one out."""

    def __iter__(self) -> Iterator[AlpacaRow]:
        """Go through all of them."""

    def place(self, index: int) -> str:
        """Say where a row stands, such as `rows.jsonl: line 3`."""


class LocalRows:
    """Rows of a local file, all in memory and checked."""

    def __init__(self, rows: list[LocalRow]) -> None:
        self._places = [row.place for row in rows]
        self._rows = [AlpacaRow.of(row.place, row.columns) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> AlpacaRow:
        return self._rows[index]

    def __iter__(self) -> Iterator[AlpacaRow]:
        return iter(self._rows)

    def place(self, index: int) -> str:
        """Say where a row stands."""
        return self._places[index]


class HubRows:
    """Rows of a table that stays on the disk (a memory-mapped `datasets.Dataset`)."""

    def __init__(self, source: str, table: Any) -> None:  # `datasets` ships no types.
        check_columns(source, table.column_names)
        self._source = source
        self._table = table.select_columns([name for name in COLUMNS if name in table.column_names])

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int, /) -> AlpacaRow:
        return AlpacaRow.of(self.place(index), self._table[index])

    def __iter__(self) -> Iterator[AlpacaRow]:
        return (AlpacaRow.of(self.place(i), row) for i, row in enumerate(self._table))

    def place(self, index: int) -> str:
        """Say where a row stands, counted from 1."""
        return f"{self._source}: row {index + 1}"


def load_rows(source: str, split: str, load_options: dict[str, str] | None) -> AlpacaRows:
    """Load a local file by our own reader, or a data set of the hub by `datasets`.

    Local files do not go through `datasets`: its messages name neither row nor column, it copies the
    file into a cache and counts the use of its loaders over the network.

    Raises:
        FileNotFoundError: there is no such file, or the hub has no such data set.
        ConnectionError: the hub cannot be reached.
        ValueError: the rows are not as they must be, or an argument has no meaning for this source.
    """
    if not _is_local(source):
        return HubRows(source, load_hub_table(source, split, load_options or {}))
    if split != "train":
        raise ValueError(
            f"split: {source} is a local file and has no split {split!r}; name that split's file as the source"
        )
    if load_options:
        raise ValueError(
            f"load_options: {source} is a local file; {', '.join(load_options)} would have no effect"
        )
    return LocalRows(read_local_rows(Path(source).expanduser()))


def check_columns(place: str, columns: list[str]) -> None:
    """Check that the needed columns are there, and that an input has not gone by another name.

    Raises:
        ValueError: they are not; the message has the columns found.
    """
    found = f"; the columns found are {', '.join(map(repr, columns)) or 'none'}"
    for name in ("instruction", "output"):
        if name not in columns:
            raise ValueError(f"{place}: no column {name!r}{found}")
    if "input" not in columns and any("input" in name.lower() for name in columns):
        raise ValueError(f"{place}: no column 'input', only a similar one that would go unread{found}")


def _is_local(source: str) -> bool:
    """Tell a path from a name on the hub, which looks like `owner/name`."""
    path = Path(source).expanduser()
    return path.suffix.lower() in LOCAL_SUFFIXES or source.startswith((".", "/", "~")) or path.exists()
