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
    """How many tokens are read that are not padding."""
    documents: Tensor | None = None
    """The number of the document in its row that each token belongs to, [b, s], padding being more of them, none longer
    than the row's longest; None where every row holds a single one."""
    lengths: tuple[int, ...] = ()
    """How many tokens of each example are read; together they are `n_tokens`."""
    rows: tuple[int, ...] = ()
    """The dataset's rows that the examples came from, counted from 0; empty where that is not known."""

    def to(self, device: torch.device | str) -> Self:
        """Copy the tensors to a device; where they are there already, nothing is copied."""
        documents = None if self.documents is None else self.documents.to(device)
        return evolve(self, tokens=self.tokens.to(device), labels=self.labels.to(device), documents=documents)


def collate(rows: Sequence[Example | Sequence[Example]], pad_id: int) -> Batch:
    """Put rows side by side, filled up on the right to the longest.

    An example's last token is predicted and never read, so it takes one position less than it has tokens. Padding is
    right of what causal attention sees, so that of rows with a single example needs no mask.

    Args:
        rows: Each an example, or several to stand one behind the other.
        pad_id: What the rows are filled up with; it is never a target, whatever other meaning it has.

    Raises:
        ValueError: there are no examples.
    """
    packed = [[row] if isinstance(row, Example) else row for row in rows]
    if not packed or not all(packed):
        raise ValueError("a batch needs at least one example in every row")
    lengths = [sum(len(example.tokens) - 1 for example in row) for row in packed]
    n, width = len(packed), max(lengths)
    tokens, labels, documents = array("q"), array("q"), array("q")
    for row, length in zip(packed, lengths, strict=True):
        for number, example in enumerate(row):
            tokens.fromlist(example.tokens[:-1])
            labels.fromlist(example.labels[1:])
            documents.fromlist([number] * (len(example.tokens) - 1))
        n_padding = width - length
        longest = max(len(example.tokens) - 1 for example in row)
        tokens.fromlist([pad_id] * n_padding)
        labels.fromlist([IGNORE_INDEX] * n_padding)
        documents.fromlist([len(row) + i // longest for i in range(n_padding)])
    return Batch(
        _rectangle(tokens, n),
        _rectangle(labels, n),
        n_targets=sum(example.n_targets for row in packed for example in row),
        n_tokens=sum(lengths),
        lengths=tuple(len(example.tokens) - 1 for row in packed for example in row),
        documents=_rectangle(documents, n) if any(len(row) > 1 for row in packed) else None,
    )


def _rectangle(values: "array[int]", n_rows: int) -> Tensor:
    """Make rows of equal length of numbers that stand one behind the other; nothing is copied."""
    return torch.frombuffer(values, dtype=torch.long).view(n_rows, -1)
