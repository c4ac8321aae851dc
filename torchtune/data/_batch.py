"""Examples side by side in rectangular tensors."""

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

    def to(self, device: torch.device | str) -> Self:
        """Copy the tensors to a device; where they are there already, nothing is copied."""
        return evolve(self, tokens=self.tokens.to(device), labels=self.labels.to(device))


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Put examples side by side, filled up on the right to the longest.

    An example's last token is predicted and never read, so s is one less than the longest example's
    length. Padding is right of what causal attention sees, so it needs no mask.

    Args:
        examples: One row each.
        pad_id: What the rows are filled up with; it is never a target, whatever other meaning it has.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    lengths = [len(example.tokens) - 1 for example in examples]
    shape = (len(examples), max(lengths))
    tokens = torch.full(shape, pad_id, dtype=torch.long)  # [b, s]
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)  # [b, s]
    for row, (example, n) in enumerate(zip(examples, lengths, strict=True)):
        tokens[row, :n] = torch.tensor(example.tokens[:-1])
        labels[row, :n] = torch.tensor(example.labels[1:])
    n_targets = sum(example.n_targets for example in examples)
    return Batch(tokens, labels, n_targets=n_targets, n_tokens=sum(lengths))
