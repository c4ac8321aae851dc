"""The input of one forward and backward pass."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor

IGNORE_INDEX = -100
"""The label of a token that is not a target: the default `ignore_index` of torch.nn.CrossEntropyLoss."""

_ALIGNMENT = 16
"""Alignment (bytes) of tensors in a shared buffer: the width of the widest element."""


class Span(NamedTuple):
    """The location of a sequence, or of padding, in a batch; `torchtune.modules.Documents` is built from spans."""

    row: int
    start: int
    """The column of the first token."""
    end: int
    """The column after the last token."""
    prefix_start: int = 0
    """The first column of the prefix that the sequence shares with an earlier sequence."""
    prefix_length: int = 0
    """Number of tokens in the shared prefix, which the row contains only once, in the earlier sequence."""


@frozen(eq=False)  # Comparing tensors does not yield a single truth value.
class Batch:
    """The input of one forward and backward pass: token sequences side by side in batch rows of equal length.

    Sequences are indexed from 0, batch row by batch row and from left to right, as in `lengths`. In a batch of pairs,
    pair i has its chosen answer in sequence 2i and its rejected answer in sequence 2i + 1.

    Every batch satisfies:

    - `labels.flatten()[target_positions]` are the targets; all other labels are IGNORE_INDEX;
    - `target_positions` is strictly increasing and `target_sequences` is non-decreasing; both have `n_targets` elements
      (a filler has counts of 0, but one element per target in `labels`);
    - `spans`, if any, cover every position of every batch row in order; padding spans share no prefix.

    All data except the tensors is on the host, so computing a loss copies nothing back from the device.
    """

    tokens: Tensor
    """Input ids, [b, s]."""
    labels: Tensor
    """The id that each position predicts, or IGNORE_INDEX, [b, s]; already shifted by one relative to the tokens."""
    target_positions: Tensor
    """Positions with a target, as row * s + column, [n], int64."""
    target_sequences: Tensor
    """Index of the sequence that each target belongs to, [n], int64."""
    counts: Mapping[str, int]
    """Divisors of the batch's loss terms, by name (`Item.counts`), summed over its items."""
    lengths: tuple[int, ...] = ()
    """Number of input tokens in each sequence; a shared prefix is counted in every sequence that has it."""
    n_shared: int = 0
    """Number of the tokens in `lengths` that are part of an earlier sequence and therefore stored only once."""
    spans: tuple[Span, ...] = ()
    """Every sequence and all padding, in order; empty if every batch row contains a single sequence."""
    span_table: Tensor | None = None
    """`spans` as a tensor, [number of spans, 5], int64; None without spans."""
    rows: tuple[int, ...] = ()
    """Index of the dataset row that each item came from; empty if unknown."""
    values: Mapping[str, Tensor] = field(factory=dict)
    """Additional tensors of a custom item type, by name, with values for items, sequences or targets; `padded` does not
    pad values for positions."""
    is_filler: bool = False
    """Whether the batch repeats another rank's rows. All ranks must call the model the same number of times, but no
    rows were left for this rank. Its score is multiplied by 0; code that sums over a batch itself must skip fillers."""

    @property
    def n_targets(self) -> int:
        """Number of labels that are targets."""
        return self.counts["targets"]

    @property
    def n_tokens(self) -> int:
        """Number of input tokens in all sequences, excluding padding."""
        return 0 if self.is_filler else sum(self.lengths)

    @property
    def n_padding(self) -> int:
        """Number of padding positions."""
        return self.tokens.numel() - (self.n_tokens - self.n_shared)

    def sum_by_sequence(self, values: Tensor) -> Tensor:
        """Sum one value of each target, [n], over the targets of each sequence: [number of sequences]."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.target_sequences, values)

    def as_filler(self) -> Self:
        """Return a filler with the same tokens and targets, but counts of 0 and no rows."""
        return evolve(self, counts=dict.fromkeys(self.counts, 0), n_shared=0, rows=(), is_filler=True)

    def padded(self, width: int, pad_id: int, *, with_spans: bool = False) -> Self:
        """Pad the batch rows on the right; losses and gradients do not change.

        Args:
            width: Number of positions in the padded rows.
            pad_id: Token id used for padding.
            with_spans: Add spans even if every batch row contains a single sequence.

        Raises:
            ValueError: the batch rows are wider than `width`.
        """
        s = self.tokens.shape[1]
        if width < s:
            raise ValueError(f"cannot pad batch rows of {s} positions to {width}")
        has_spans = with_spans or bool(self.spans)
        if width == s and has_spans == bool(self.spans):
            return self
        spans = self._padded_spans(width) if has_spans else ()
        return evolve(
            self,
            tokens=F.pad(self.tokens, (0, width - s), value=pad_id),
            labels=F.pad(self.labels, (0, width - s), value=IGNORE_INDEX),
            target_positions=self.target_positions + self.target_positions // s * (width - s),
            spans=spans,
            span_table=torch.tensor(spans) if spans else None,
        )

    def _padded_spans(self, width: int) -> tuple[Span, ...]:
        """Return spans that cover batch rows of a greater width; no added span is longer than the longest sequence."""
        spans = self.spans or [Span(row, 0, length) for row, length in enumerate(self.lengths)]
        rows = [list(row) for _, row in itertools.groupby(spans, key=lambda span: span.row)]
        longest = max((span.prefix_length + span.end - span.start for span in spans), default=0)
        return tuple(span for row in rows for span in (*row, *padding_spans(row[-1], width, longest)))

    def to(self, device: torch.device | str, *, as_one: bool | None = None) -> Self:
        """Move the tensors to a device.

        Args:
            device: The target device; tensors that are already on it are not copied.
            as_one: Copy all tensors through one buffer. On CUDA this is one asynchronous copy from pinned memory: later
                work on the same stream waits for it, but the host does not. None: on CUDA only.
        """
        device = torch.device(device)
        tensors = self._tensors()
        if as_one is None:
            is_on_device = self.tokens.device.type == device.type and device.index in (
                None,
                self.tokens.device.index,
            )
            if is_on_device:
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


def padding_spans(last: Span, width: int, longest: int) -> list[Span]:
    """Return spans of at most `longest` positions that pad a batch row, after its last span, to a width."""
    starts = range(last.end, width, longest)
    return [Span(last.row, start, min(start + longest, width)) for start in starts]


def _moved_as_one(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy CPU tensors through one buffer; the copies are views of a buffer on the device."""
    sizes = [math.ceil(tensor.nbytes / _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
    is_pinned = device.type == "cuda"
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=is_pinned)
    for view, tensor in zip(_views(buffer, tensors, sizes), tensors, strict=True):
        view.copy_(tensor)
    # torch does not reuse the pinned buffer before the copy has finished, even if no reference to it remains.
    return _views(buffer.to(device, non_blocking=is_pinned, copy=True), tensors, sizes)


def _views(buffer: Tensor, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Return views of a buffer's parts, with the given tensors' types and shapes."""
    parts = zip(tensors, torch.split(buffer, list(sizes)), strict=True)
    return [part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape) for tensor, part in parts]
