"""Some rows of a dataset, and the others."""

import bisect
from collections.abc import Sequence
from typing import Generic

from attrs import define, field

from torchtune.data._item import Encoded, ItemT
from torchtune.data._order import Order
from torchtune.data._rows import Rows, is_plain_text, place_of, reported_of, stream_of, use_cache


@define
class Subset(Generic[ItemT]):
    """Rows of a dataset, by their numbers there; what it can do besides, they can."""

    dataset: Rows[ItemT]
    rows: "Sequence[int] | _Others"

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Encoded[ItemT]:
        """Take what a row gives."""
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        return self.dataset[self.rows[index]]

    def place(self, index: int) -> str:
        """Say where a row stands, for errors."""
        return place_of(self.dataset, self.rows[index])

    @property
    def reported(self) -> frozenset[str]:
        """The texts of the notes that the dataset has logged already."""
        return reported_of(self.dataset)

    @property
    def is_plain_text(self) -> bool:
        """Whether the rows are texts without prompts."""
        return is_plain_text(self.dataset)

    def use_cache(self, folder: str) -> None:
        """Keep encoded rows on the disk, if the dataset can (`RowDataset.use_cache`)."""
        use_cache(self.dataset, folder)


@define
class _Others:
    """The numbers from 0 to below n that are not among some sorted ones, in their order; in memory are those alone."""

    n: int
    left_out: list[int]
    _gaps: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._gaps = [row - i for i, row in enumerate(self.left_out)]

    def __len__(self) -> int:
        return self.n - len(self.left_out)

    def __getitem__(self, index: int, /) -> int:
        return index + bisect.bisect_right(self._gaps, index)


def split_off(dataset: Rows[ItemT], share: float, seed: int) -> tuple[Subset[ItemT], Subset[ItemT]]:
    """Hold rows of a dataset out, which the seed draws.

    Args:
        dataset: The rows; reading any of them is as good as reading the next.
        share: How many are held out, above 0 and below 1; one row at least, and not the last.
        seed: What they are drawn from.

    Returns:
        The others in their order, and those held out.

    Raises:
        ValueError: There are fewer than two rows, or they are streamed.
    """
    n = len(dataset)
    if stream_of(dataset) is not None:
        raise ValueError(
            "validation.share: rows that are streamed cannot be held out, since they are read in their order;"
            " name others with validation.dataset"
        )
    if n < 2:
        raise ValueError(f"validation.share: a dataset of {n} row(s) has none to hold out")
    order = Order(n, seed, "held out")
    held_out = sorted(order[i] for i in range(min(max(1, round(share * n)), n - 1)))
    return Subset(dataset, _Others(n, held_out)), Subset(dataset, held_out)
