"""Several datasets concatenated into one."""

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
    as_stream,
    is_plain_text,
    location_of,
    logged_notes,
    use_cache,
)


class ConcatDataset(Dataset[Encoded[Example]]):
    """Concatenated datasets, each repeated or subsampled by its weight. Shuffling mixes their rows.

    Args:
        tokenizer: The tokenizer for all datasets; the recipe passes it.
        datasets: The datasets, configured without a tokenizer.
        weights: Number of times that an epoch contains each dataset's rows: 2 uses every row twice, 0.5 uses half of
            the rows (the same half in every epoch). Null: 1 for each dataset.

    Raises:
        ValueError: There are no datasets, the numbers of weights and datasets differ, a weight is not
            above 0, or a dataset is streamed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        datasets: Annotated[list[Component[Dataset[Encoded[Example]]]], Passed(1)],
        weights: list[float] | None = None,
    ) -> None:
        if not datasets:
            raise ValueError("datasets: expected at least one dataset")
        weights = [1.0] * len(datasets) if weights is None else weights
        if len(weights) != len(datasets):
            raise ValueError(
                f"weights: expected {len(datasets)} weights, one for each dataset, got {len(weights)}"
            )
        if any(not weight > 0 for weight in weights):
            raise ValueError(f"weights: expected numbers above 0, got {min(weights)}")
        self._parts = [cast("Examples", instantiate(dataset, tokenizer)) for dataset in datasets]
        if any(as_stream(part) is not None for part in self._parts):
            raise ValueError(
                "datasets: a streamed dataset cannot be concatenated; remove load_options.streaming from every dataset"
            )
        self._orders = [Order(len(part), 0, f"part {i}") for i, part in enumerate(self._parts)]
        sizes = [max(1, round(w * len(part))) for w, part in zip(weights, self._parts, strict=True)]
        self._ends = list(itertools.accumulate(sizes))

    def __len__(self) -> int:
        """Count the rows of an epoch."""
        return self._ends[-1]

    def __getitem__(self, index: int, /) -> Encoded[Example]:
        """Encode a row with the dataset that it belongs to."""
        if index >= len(self):
            raise IndexError(index)
        part, row = self._locate(index)
        return part[row]

    def location(self, index: int) -> str:
        """Return a row's location, such as `rows.jsonl: line 3`."""
        return location_of(*self._locate(index))

    @property
    def logged_notes(self) -> frozenset[str]:
        """The texts of the notes that the datasets have already logged."""
        return frozenset().union(*map(logged_notes, self._parts))

    @property
    def is_plain_text(self) -> bool:
        """Whether all rows are plain text without prompts."""
        return all(map(is_plain_text, self._parts))

    def _locate(self, index: int) -> tuple[Examples, int]:
        """Return the dataset that a row belongs to, and the row's index in it."""
        i = bisect.bisect_right(self._ends, index)
        part = self._parts[i]
        position = index - (self._ends[i - 1] if i else 0)
        return part, self._orders[i][position % len(part)]

    def use_cache(self, folder: str) -> None:
        """Cache the encoded rows of each dataset that supports it (`RowDataset.use_cache`)."""
        for part in self._parts:
            use_cache(part, folder)
