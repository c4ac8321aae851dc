"""What a dataset is, and what it may be able to do besides."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torchtune.data._example import Example
from torchtune.data._item import Encoded, Item, ItemT_co


class Rows(Protocol[ItemT_co]):
    """Rows by number, each of which gives items: a list of them, or a torch.utils.data.Dataset with a length."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int, /) -> Encoded[ItemT_co]:
        """Return what a row gives."""


Examples = Rows[Example]
"""Rows that give examples."""


@runtime_checkable
class Located(Protocol):
    """A dataset that knows where its rows are."""

    def place(self, index: int, /) -> str:
        """Return where a row is, such as `rows.jsonl: line 3`."""


@runtime_checkable
class Reporting(Protocol):
    """A dataset that has logged notes of its rows when it was made."""

    @property
    def reported(self) -> frozenset[str]:
        """The texts of these notes, which are not logged again."""


@runtime_checkable
class Cacheable(Protocol):
    """A dataset that can keep encoded rows on disk."""

    def use_cache(self, folder: str, /) -> None:
        """Keep encoded rows in a folder, and read them from there."""


@runtime_checkable
class PlainText(Protocol):
    """A dataset that may be one of texts without prompts."""

    @property
    def is_plain_text(self) -> bool:
        """Whether it is, so that every token is meant to be a target."""


@runtime_checkable
class Streamed(Protocol):
    """A dataset that may be read in its order only, with a block of its rows in memory."""

    @property
    def block(self) -> int | None:
        """How many rows are in memory together, among which they are shuffled; None: any row is read at once."""

    def bookmark(self, row: int, /) -> dict[int, Any]:
        """Return what finds a row again without reading all that is before it."""

    def add_bookmarks(self, bookmarks: dict[int, Any], /) -> None:
        """Add what `bookmark` returned, in this process or another."""


def place_of(dataset: object, row: int) -> str:
    """Return where a row of a dataset is, as the dataset has it, or its number."""
    return dataset.place(row) if isinstance(dataset, Located) else f"row {row + 1}"


def reported_of(dataset: object) -> frozenset[str]:
    """Return the texts of the notes that a dataset has logged already."""
    return dataset.reported if isinstance(dataset, Reporting) else frozenset()


def use_cache(dataset: object, folder: str) -> None:
    """Keep a dataset's encoded rows on disk, if it can."""
    if isinstance(dataset, Cacheable):
        dataset.use_cache(folder)


def is_plain_text(dataset: object) -> bool:
    """Tell whether a dataset is one of texts without prompts."""
    return isinstance(dataset, PlainText) and dataset.is_plain_text


def stream_of(dataset: object) -> Streamed | None:
    """Return a dataset that is read in its order only; None for any other."""
    return dataset if isinstance(dataset, Streamed) and dataset.block is not None else None


def spread(dataset: Rows[Item], n: int) -> Sequence[int]:
    """Choose rows to look at: all over the dataset, or the first ones of a dataset that is read in its order."""
    n_rows = len(dataset)
    if n_rows <= n or stream_of(dataset) is not None:
        return range(min(n, n_rows))
    return [i * n_rows // n for i in range(n)]
