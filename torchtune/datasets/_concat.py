"""Several datasets as one."""

import bisect
import itertools
from typing import Annotated, cast

from torch.utils.data import Dataset

from torchtune.config import Component, Passed, instantiate
from torchtune.data import (
    Encoded,
    Example,
    Examples,
    Order,
    Tokenizer,
    is_plain_text,
    place_of,
    reported_of,
    stream_of,
    use_cache,
)


class ConcatDataset(Dataset[Encoded[Example]]):
    """Datasets one after the other, each as often as its weight says; shuffling mixes them.

    Args:
        tokenizer: Passed on to each of them; the recipe passes it.
        datasets: The datasets, each without its tokenizer.
        weights: How often an epoch has every row of each: 2 doubles a dataset, 0.5 takes every other of its rows, the
            same ones in every epoch. Null: once.

    Raises:
        ValueError: there are no datasets, or not as many weights, or one is not above 0; or a dataset is streamed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        datasets: Annotated[list[Component[Dataset[Encoded[Example]]]], Passed(1)],
        weights: list[float] | None = None,
    ) -> None:
        if not datasets:
            raise ValueError("datasets: expected at least one")
        weights = [1.0] * len(datasets) if weights is None else weights
        if len(weights) != len(datasets):
            raise ValueError(f"weights: expected {len(datasets)}, one for each dataset, got {len(weights)}")
        if any(not weight > 0 for weight in weights):
            raise ValueError(f"weights: expected numbers above 0, got {min(weights)}")
        self._parts = [cast("Examples", instantiate(dataset, tokenizer)) for dataset in datasets]
        if any(stream_of(part) is not None for part in self._parts):
            raise ValueError(
                "datasets: rows that are streamed cannot be mixed with others; leave streaming out"
            )
        self._orders = [Order(len(part), 0, f"part {i}") for i, part in enumerate(self._parts)]
        numbers = [max(1, round(w * len(part))) for w, part in zip(weights, self._parts, strict=True)]
        self._ends = list(itertools.accumulate(numbers))

    def __len__(self) -> int:
        """Count the rows of an epoch."""
        return self._ends[-1]

    def __getitem__(self, index: int, /) -> Encoded[Example]:
        """Encode a row of whichever dataset it belongs to."""
        if index >= len(self):
            raise IndexError(index)
        part, row = self._at(index)
        return part[row]

    def place(self, index: int) -> str:
        """Say where a row is, such as `rows.jsonl: line 3`."""
        return place_of(*self._at(index))

    @property
    def reported(self) -> frozenset[str]:
        """The texts of the notes that the datasets have logged already."""
        return frozenset().union(*map(reported_of, self._parts))

    @property
    def is_plain_text(self) -> bool:
        """Whether all rows are texts without prompts."""
        return all(map(is_plain_text, self._parts))

    def _at(self, index: int) -> tuple[Examples, int]:
        """Return the dataset that a row belongs to, and its number there."""
        i = bisect.bisect_right(self._ends, index)
        part = self._parts[i]
        position = index - (self._ends[i - 1] if i else 0)
        return part, self._orders[i][position % len(part)]

    def use_cache(self, folder: str) -> None:
        """Keep the encoded rows of each that can on the disk (`RowDataset.use_cache`)."""
        for part in self._parts:
            use_cache(part, folder)
