"""The order in which a run reads its examples."""

import hashlib
from collections.abc import Iterator
from typing import Protocol, Self

import torch

from torchtune.data._batch import Batch, collate
from torchtune.data._example import Example


class Examples(Protocol):
    """Examples by number: a list of them, or a torch.utils.data.Dataset with a length."""

    def __len__(self) -> int:
        """Count the examples."""

    def __getitem__(self, index: int, /) -> Example:
        """Take one out."""


class Batches(Iterator[Batch]):
    """Endless batches of one rank, in an order that a seed fixes and that can be taken up anywhere.

    The epochs form one endless stream of rows: each epoch is every row once, in an order drawn from the
    seed and the epoch's number (or as they come, if not shuffled), and the next follows directly. Every
    call takes the next `size * batch_size` rows off the stream, `batch_size` for each rank in turn. The
    batch at an epoch's border is filled from the next epoch, so that all batches are full on all ranks,
    and the rows of an optimizer step do not depend on how they are shared out: 4 ranks, 2 ranks with two
    micro-batches each and 1 rank with four read the same ones.

    A position in the stream is one number. Taking it up again costs one permutation, not reading what
    went before, and may use another number of ranks or another batch size.

    Args:
        dataset: The examples, the same on all ranks.
        batch_size: Rows in a batch of one rank.
        shuffle: Draw a new order for every epoch.
        seed: What the orders are drawn from; the same on all ranks.
        pad_id: What shorter rows are filled up with.
        rank: Which of the ranks that share the data this is, from 0.
        size: How many ranks share the data.

    Raises:
        ValueError: the dataset is empty, or a number is out of its range.
    """

    def __init__(  # noqa: PLR0913 - the order and its sharing take these.
        self,
        dataset: Examples,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        pad_id: int,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("the dataset is empty; there is nothing to make batches of")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected an int above 0, got {batch_size}")
        if not 0 <= rank < size:
            raise ValueError(f"rank: expected a number from 0 to {size - 1}, got {rank}")
        self._dataset = dataset
        self._n_rows = len(dataset)
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._pad_id = pad_id
        self._rank = rank
        self._size = size
        self._row = 0  # The position in the stream, the same on all ranks.
        self._drawn: tuple[int, list[int]] = (-1, [])  # The last epoch drawn, and its order.

    @property
    def batches_per_epoch(self) -> int:
        """How many batches of a rank it takes to see every row; the last may reach into the next epoch."""
        return self.batches_in(1)

    @property
    def epoch(self) -> int:
        """How many epochs are over."""
        return self._row // self._n_rows

    def batches_in(self, epochs: int) -> int:
        """How many batches of a rank it takes to see every row this many times, from the stream's start."""
        return -(-epochs * self._n_rows // (self._batch_size * self._size))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """Take this rank's part of the next rows off the stream; the other ranks take theirs."""
        start = self._row + self._rank * self._batch_size
        rows = [self._dataset_row(row) for row in range(start, start + self._batch_size)]
        self._row += self._size * self._batch_size
        return collate([self._dataset[row] for row in rows], self._pad_id)

    def state_dict(self) -> dict[str, int | bool]:
        """Give the position in the stream, and what the stream depends on."""
        return {"row": self._row, "n_rows": self._n_rows, "shuffle": self._shuffle, "seed": self._seed}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Take the stream up where another left it.

        Raises:
            ValueError: that stream was of another length, seed or kind of order.
        """
        now = self.state_dict()
        if set(state) != set(now):
            raise ValueError(f"expected the state of batches, {sorted(now)}, got {sorted(state)}")
        for name in ("n_rows", "shuffle", "seed"):
            if state[name] != now[name]:
                raise ValueError(
                    f"the data cannot be taken up where the saved run left it: {name} was {state[name]}"
                    f" and is {now[name]} now"
                )
        self._row = int(state["row"])

    def _dataset_row(self, stream_row: int) -> int:
        """Find which row of the dataset stands at a position of the stream."""
        epoch, place = divmod(stream_row, self._n_rows)
        if not self._shuffle:
            return place
        if self._drawn[0] != epoch:
            self._drawn = (epoch, _permutation(self._n_rows, self._seed, epoch))
        return self._drawn[1][place]


def _permutation(n: int, seed: int, epoch: int) -> list[int]:
    """Draw an epoch's order. Hashed, so that seed 1's second epoch is not seed 2's first."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.randperm(n, generator=generator).tolist()
