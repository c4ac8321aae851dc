"""Protocols of datasets: rows by index, and optional features."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torchtune.data._example import Example
from torchtune.data._item import Encoded, Item, ItemT_co


class Rows(Protocol[ItemT_co]):
    """A dataset, such as a list or a torch.utils.data.Dataset with a length: rows by index, which yield items."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, index: int, /) -> Encoded[ItemT_co]:
        """Return the encoded row."""


Examples = Rows[Example]
"""A dataset whose rows yield examples."""


@runtime_checkable
class Located(Protocol):
    """A dataset that can locate its rows."""

    def location(self, index: int, /) -> str:
        """Return the location of a row, such as `rows.jsonl: line 3`."""


@runtime_checkable
class Reporting(Protocol):
    """A dataset that logged notes on its rows when it was built."""

    @property
    def logged_notes(self) -> frozenset[str]:
        """Texts of these notes, which are not logged again."""


@runtime_checkable
class Cacheable(Protocol):
    """A dataset that can cache encoded rows on disk."""

    def use_cache(self, folder: str, /) -> None:
        """Cache encoded rows in a folder."""


@runtime_checkable
class PlainText(Protocol):
    """A dataset that may contain plain text without prompts."""

    @property
    def is_plain_text(self) -> bool:
        """Whether rows are plain text without prompts, so that every token should be a target."""


@runtime_checkable
class Streamed(Protocol):
    """A dataset that may support only sequential reading, with one block of rows in memory."""

    @property
    def block(self) -> int | None:
        """Number of rows in memory at a time, which are shuffled together. None: rows can be read in any order."""

    def bookmark(self, row: int, /) -> dict[int, Any]:
        """Return bookmarks that allow reading a row without reading all rows before it."""

    def add_bookmarks(self, bookmarks: dict[int, Any], /) -> None:
        """Add bookmarks that `bookmark` returned, possibly in a different process."""


def location_of(dataset: object, row: int) -> str:
    """Return the location of a row, or `row N` if the dataset does not locate its rows."""
    return dataset.location(row) if isinstance(dataset, Located) else f"row {row + 1}"


def logged_notes(dataset: object) -> frozenset[str]:
    """Return the text of every note that a dataset has already logged."""
    return dataset.logged_notes if isinstance(dataset, Reporting) else frozenset()


def use_cache(dataset: object, folder: str) -> None:
    """Cache a dataset's encoded rows on disk, if it supports caching."""
    if isinstance(dataset, Cacheable):
        dataset.use_cache(folder)


def is_plain_text(dataset: object) -> bool:
    """Return whether a dataset contains plain text without prompts."""
    return isinstance(dataset, PlainText) and dataset.is_plain_text


def as_stream(dataset: object) -> Streamed | None:
    """Return the dataset if it can only be read sequentially, otherwise None."""
    return dataset if isinstance(dataset, Streamed) and dataset.block is not None else None


def sample_indices(dataset: Rows[Item], n: int) -> Sequence[int]:
    """Return up to n row indices, evenly spaced over the dataset; for a streamed dataset, the first n."""
    n_rows = len(dataset)
    if n_rows <= n or as_stream(dataset) is not None:
        return range(min(n, n_rows))
    return [i * n_rows // n for i in range(n)]
