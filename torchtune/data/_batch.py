"""What one forward and backward pass reads."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
from attrs import evolve, field, frozen
from torch import Tensor

IGNORE_INDEX = -100
"""The label of a token that is no target: what torch.nn.CrossEntropyLoss ignores by default."""

_ALIGNED = 16
"""Bytes at whose multiples tensors begin in a common buffer: the width of the widest element."""


class Span(NamedTuple):
    """Where the tokens of a sequence, or padding, are in a batch: what `torchtune.modules.Documents` is made of."""

    row: int
    start: int
    """The column of the first token."""
    end: int
    """The column after the last."""
    prefix_start: int = 0
    """The column of the first token that the sequence begins with and has in common with an earlier one."""
    prefix_length: int = 0
    """How many tokens these are; they are in the row once, in the earlier sequence."""


@frozen(eq=False)  # Tensors do not compare to one truth value.
class Batch:
    """What one forward and backward pass reads: token sequences next to each other in rows of equal length.

    The sequences are numbered from 0, row by row and from left to right, as in `lengths`. Of a batch of pairs, sequence
    2i is the chosen one of pair i, and sequence 2i + 1 the rejected one.

    These hold for every batch:

    - `labels.flatten()[target_positions]` are the targets, and all other labels are IGNORE_INDEX;
    - `target_positions` rises and `target_sequences` never falls, and both have `n_targets` elements (of a filler,
      whose counts are 0: as many as there are targets);
    - `spans`, if any, cover every position of every row in order, and those of padding continue no prefix.

    What is not a tensor is on the host, so that nothing has to be read back from a device to compute a loss.
    """

    tokens: Tensor
    """Ids that the model reads, [b, s]."""
    labels: Tensor
    """What each position is to predict, or IGNORE_INDEX, [b, s]; already shifted against the tokens."""
    target_positions: Tensor
    """The positions with a target, as row * s + column, [n], int64."""
    target_sequences: Tensor
    """The number of the sequence that each target belongs to, [n], int64."""
    counts: Mapping[str, int]
    """What the loss terms of the batch are divided by, by name (`Item.counts`), summed over its items."""
    lengths: tuple[int, ...] = ()
    """How many tokens of each sequence are read, a prefix that it has in common with others counted in each."""
    n_shared: int = 0
    """How many of these tokens are not in the batch again, as they are part of an earlier sequence."""
    spans: tuple[Span, ...] = ()
    """Every sequence, and what pads the rows, in order; empty where every row holds a single sequence."""
    span_table: Tensor | None = None
    """`spans` as a tensor, [number of spans, 5], int64; None where there are none."""
    rows: tuple[int, ...] = ()
    """The dataset's row that each item came from, counted from 0; empty where that is not known."""
    values: Mapping[str, Tensor] = field(factory=dict)
    """Further tensors of an item kind of your own, by name."""
    is_filler: bool = False
    """Whether it repeats another rank's rows, because all ranks must call the model equally often and none is left for
    this one. Its score is multiplied by 0; code that computes sums over a batch itself leaves it out."""

    @property
    def n_targets(self) -> int:
        """How many labels are targets."""
        return self.counts["targets"]

    @property
    def n_tokens(self) -> int:
        """How many tokens the sequences have to be read, without padding."""
        return 0 if self.is_filler else sum(self.lengths)

    @property
    def n_padding(self) -> int:
        """How many positions hold no token of a sequence."""
        return self.tokens.numel() - (self.n_tokens - self.n_shared)

    def sum_by_sequence(self, values: Tensor) -> Tensor:
        """Sum one value of each target, [n], over the targets of each sequence: [number of sequences]."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.target_sequences, values)

    def as_filler(self) -> Self:
        """Return the same tokens and targets as a filler: counts of 0, and no rows."""
        return evolve(self, counts=dict.fromkeys(self.counts, 0), n_shared=0, rows=(), is_filler=True)

    def to(self, device: torch.device | str, *, as_one: bool | None = None) -> Self:
        """Move the tensors to a device.

        Args:
            device: Where they are to be; if they are there already, nothing is copied.
            as_one: Copy them in one piece. On CUDA that is one asynchronous copy from pinned memory: later work on the
                same stream waits for it, the host does not. None: on CUDA only.
        """
        device = torch.device(device)
        tensors = self._tensors()
        if as_one is None:
            is_there = self.tokens.device.type == device.type and device.index in (
                None,
                self.tokens.device.index,
            )
            if is_there:
                return self
            as_one = device.type == "cuda"
        copies = iter(_moved_as_one(tensors, device) if as_one else [tensor.to(device) for tensor in tensors])
        return evolve(
            self,
            tokens=next(copies),
            labels=next(copies),
            target_positions=next(copies),
            target_sequences=next(copies),
            span_table=None if self.span_table is None else next(copies),
            values={name: next(copies) for name in self.values},
        )

    def _tensors(self) -> list[Tensor]:
        """Return the tensors in the order of the fields."""
        tensors = [self.tokens, self.labels, self.target_positions, self.target_sequences]
        return [*tensors, *([] if self.span_table is None else [self.span_table]), *self.values.values()]


def _moved_as_one(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors of a CPU through one buffer; the copies are views of another."""
    sizes = [math.ceil(tensor.nbytes / _ALIGNED) * _ALIGNED for tensor in tensors]
    is_pinned = device.type == "cuda"
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=is_pinned)
    for view, tensor in zip(_views(buffer, tensors, sizes), tensors, strict=True):
        view.copy_(tensor)
    # torch does not reuse the pinned buffer before the copy is done, even if it is freed here.
    return _views(buffer.to(device, non_blocking=is_pinned, copy=True), tensors, sizes)


def _views(buffer: Tensor, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Return the parts of a buffer as tensors of some types and shapes."""
    parts = zip(tensors, torch.split(buffer, list(sizes)), strict=True)
    return [part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape) for tensor, part in parts]
