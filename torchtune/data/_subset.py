"""Subsets of a dataset's rows, and the split into training and held-out rows."""

import bisect
from collections.abc import Sequence
from typing import Generic

from attrs import define, field

from torchtune.data._item import Encoded, ItemT
from torchtune.data._order import Order
from torchtune.data._rows import Rows, as_stream, is_plain_text, location_of, logged_notes, use_cache


@define
class Subset(Generic[ItemT]):
    """A subset of a dataset's rows, selected by index. Optional dataset features are forwarded."""

    dataset: Rows[ItemT]
    rows: "Sequence[int] | _Complement"

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Encoded[ItemT]:
        """Return the encoded row."""
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        return self.dataset[self.rows[index]]

    def location(self, index: int) -> str:
        """Return the row's location (file and line), for error messages."""
        return location_of(self.dataset, self.rows[index])

    @property
    def logged_notes(self) -> frozenset[str]:
        """Texts of the notes that the dataset has already logged."""
        return logged_notes(self.dataset)

    @property
    def is_plain_text(self) -> bool:
        """Whether the rows are plain text without prompts."""
        return is_plain_text(self.dataset)

    def use_cache(self, folder: str) -> None:
        """Cache encoded rows on disk, if the dataset supports that (`RowDataset.use_cache`)."""
        use_cache(self.dataset, folder)


@define
class _Complement:
    """The integers below n except the excluded ones, in ascending order; only the excluded ones are stored."""

    n: int
    excluded: list[int]
    """Sorted in ascending order."""
    _gaps: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._gaps = [row - i for i, row in enumerate(self.excluded)]

    def __len__(self) -> int:
        return self.n - len(self.excluded)

    def __getitem__(self, index: int, /) -> int:
        return index + bisect.bisect_right(self._gaps, index)


def split_off(dataset: Rows[ItemT], fraction: float, seed: int) -> tuple[Subset[ItemT], Subset[ItemT]]:
    """Split a dataset into training rows and randomly drawn held-out rows.

    Args:
        dataset: A dataset with random access.
        fraction: Fraction of rows to hold out, above 0 and below 1; at least one row is held out and at
            least one is kept for training.
        seed: Seed of the random draw.

    Returns:
        The training rows in dataset order, and the held-out rows.

    Raises:
        ValueError: there are fewer than two rows, or the dataset is streamed.
    """
    n = len(dataset)
    if as_stream(dataset) is not None:
        raise ValueError(
            "validation.fraction: rows of a streamed dataset cannot be held out, because streams are read sequentially;"
            " set validation.dataset instead"
        )
    if n < 2:
        raise ValueError(f"validation.fraction: a held-out fraction requires at least two rows, got {n}")
    order = Order(n, seed, "held out")
    held_out = sorted(order[i] for i in range(min(max(1, round(fraction * n)), n - 1)))
    return Subset(dataset, _Complement(n, held_out)), Subset(dataset, held_out)
