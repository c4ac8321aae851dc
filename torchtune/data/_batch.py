"""Examples side by side in rectangular tensors."""

from array import array
from collections.abc import Sequence
from typing import Self

import torch
from attrs import evolve, frozen
from torch import Tensor

from torchtune.data._example import IGNORE_INDEX, Example


@frozen(eq=False)  # Tensors do not compare to one truth value.
class Batch:
    """What one forward and backward pass reads."""

    tokens: Tensor
    """Ids that the model reads, [b, s]."""
    labels: Tensor
    """What each position is to predict, or IGNORE_INDEX, [b, s]; already shifted against the tokens."""
    n_targets: int
    """How many labels are targets."""
    n_tokens: int
    """How many tokens the examples have, without padding."""
    documents: Tensor | None = None
    """The number of the document in its row that each token belongs to, [b, s], padding being more of them, none longer
    than the row's longest; None where every row holds a single one."""
    shared: tuple[int, ...] = ()
    """For each row, how many tokens its documents begin with alike, which stand in it once, in the first of them; empty
    where no row has any."""
    n_shared: int = 0
    """How many tokens that makes which are not read again."""
    lengths: tuple[int, ...] = ()
    """How many tokens each example has to be read; together they are `n_tokens`, those that are shared counted in each
    that shares them."""
    rows: tuple[int, ...] = ()
    """The dataset's rows that the examples came from, counted from 0; empty where that is not known."""

    @property
    def n_padding(self) -> int:
        """How many positions hold no token of an example."""
        return self.tokens.numel() - (self.n_tokens - self.n_shared)

    def to(self, device: torch.device | str) -> Self:
        """Copy the tensors to a device; where they are there already, nothing is copied."""
        documents = None if self.documents is None else self.documents.to(device)
        return evolve(self, tokens=self.tokens.to(device), labels=self.labels.to(device), documents=documents)


_WORTH_SHARING = 16
"""Tokens that documents begin with alike, at least, to be shared: keys and values of them are copied for each."""


def collate(
    rows: Sequence[Example | Sequence[Example]], pad_id: int, *, share_prefixes: bool = False
) -> Batch:
    """Put rows side by side, filled up on the right to the longest.

    An example's last token is predicted and never read, so it takes one position less than it has tokens. Padding is
    right of what causal attention sees, so that of rows with a single example needs no mask.

    Args:
        rows: Each an example, or several to stand one behind the other.
        pad_id: What the rows are filled up with; it is never a target, whatever other meaning it has.
        share_prefixes: Let what all of a row's examples begin with, and none has a target in, stand in the row once.

    Raises:
        ValueError: there are no examples.
    """
    packed = [[row] if isinstance(row, Example) else row for row in rows]
    if not packed or not all(packed):
        raise ValueError("a batch needs at least one example in every row")
    shared = [_alike(row) if share_prefixes else 0 for row in packed]
    widths = [
        sum(len(e.tokens) - 1 for e in row) - n * (len(row) - 1)
        for row, n in zip(packed, shared, strict=True)
    ]
    width = max(widths)
    tokens, labels, documents = array("q"), array("q"), array("q")
    for row, n_shared, used in zip(packed, shared, widths, strict=True):
        for number, example in enumerate(row):
            skipped = n_shared if number else 0
            tokens.fromlist(example.tokens[skipped:-1])
            labels.fromlist(example.labels[skipped + 1 :])
            documents.fromlist([number] * (len(example.tokens) - 1 - skipped))
        n_padding = width - used
        longest = max(len(example.tokens) - 1 for example in row) - n_shared
        tokens.fromlist([pad_id] * n_padding)
        labels.fromlist([IGNORE_INDEX] * n_padding)
        documents.fromlist([len(row) + i // longest for i in range(n_padding)])
    lengths = tuple(len(example.tokens) - 1 for row in packed for example in row)
    n = len(packed)
    return Batch(
        _rectangle(tokens, n),
        _rectangle(labels, n),
        n_targets=sum(example.n_targets for row in packed for example in row),
        n_tokens=sum(lengths),
        lengths=lengths,
        documents=_rectangle(documents, n) if any(len(row) > 1 for row in packed) else None,
        shared=tuple(shared) if any(shared) else (),
        n_shared=sum(lengths) - sum(widths),
    )


def _alike(row: Sequence[Example]) -> int:
    """Return how many tokens to share: what all examples begin with, without a target, and leave at least one of."""
    if len(row) < 2:
        return 0
    most = min(len(example.tokens) for example in row) - 2
    n = next(
        (i for i, ids in enumerate(zip(*(e.tokens for e in row), strict=False)) if len({*ids}) > 1), most
    )
    n = min(n, most)
    for example in row:
        n = next((i for i in range(n) if example.labels[i + 1] != IGNORE_INDEX), n)
    return n if n >= _WORTH_SHARING else 0


def _rectangle(values: "array[int]", n_rows: int) -> Tensor:
    """Make rows of equal length of numbers that stand one behind the other; nothing is copied."""
    return torch.frombuffer(values, dtype=torch.long).view(n_rows, -1)
