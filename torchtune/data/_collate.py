"""Items next to each other in rectangular tensors."""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from torchtune.data._batch import IGNORE_INDEX, Batch, Span
from torchtune.data._item import Item, kind_of

if TYPE_CHECKING:
    from torchtune.data._example import Example


class Prefix(NamedTuple):
    """What a sequence begins with like an earlier one of its row; the tokens are in the row once."""

    sequence: int
    """The number of the earlier sequence in the row, which itself has no prefix in common with another."""
    length: int
    """How many tokens these are; 0: none. None of them predicts a target."""


def collate(rows: Sequence[Item | Sequence[Item]], pad_id: int, *, share_prefixes: bool = False) -> Batch:
    """Make a batch of items, as their kind does it (`Item.collate`).

    Args:
        rows: Each an item, or several that follow one another.
        pad_id: What the rows are filled up with; it is never a target, whatever other meaning it has.
        share_prefixes: Put what all items of a row begin with into it once, where their kind can.

    Raises:
        ValueError: There are no items, or they are of several kinds.
    """
    packed = [[row] if isinstance(row, Item) else row for row in rows]
    if not packed or not all(packed):
        raise ValueError("a batch needs at least one example in every row")
    kind_of(item for row in packed for item in row)
    return packed[0][0].collate(packed, pad_id, share_prefixes=share_prefixes)


def join_sequences(
    rows: Sequence[Sequence["Example"]],
    pad_id: int,
    prefixes: Sequence[Sequence[Prefix | None]] | None = None,
) -> Batch:
    """Put token sequences one after the other in rows, which are filled up on the right to the longest.

    A sequence's last token is predicted and never read, so it takes one position less than it has tokens. Padding is
    right of what causal attention sees, so that rows with a single sequence need no mask.

    Args:
        rows: The sequences of each row, one at least.
        pad_id: What the rows are filled up with.
        prefixes: What each begins with like an earlier one of its row. None: nothing.

    Returns:
        A batch whose only count is "targets".
    """
    tokens, labels, table = array("q"), array("q"), array("q")
    spans, lengths, n_targets = list[Span](), list[int](), list[int]()
    placed = _placed(rows, prefixes)
    width = max(of_row[-1].end for of_row in placed)
    for row, of_row in zip(rows, placed, strict=True):
        for example, span in zip(row, of_row, strict=True):
            of_labels = example.labels[span.prefix_length + 1 :]
            tokens.fromlist(example.tokens[span.prefix_length : -1])
            labels.fromlist(of_labels)
            lengths.append(len(example.tokens) - 1)
            n_targets.append(len(of_labels) - of_labels.count(IGNORE_INDEX))
        n_padding = width - of_row[-1].end
        tokens.fromlist([pad_id] * n_padding)
        labels.fromlist([IGNORE_INDEX] * n_padding)
        spans += [*of_row, *_padding(of_row[-1], width, max(lengths[-len(row) :]))]
    is_packed = any(len(row) > 1 for row in rows)
    for span in spans if is_packed else ():
        table.extend(span)
    all_labels = _rectangle(labels, len(rows))
    return Batch(
        _rectangle(tokens, len(rows)),
        all_labels,
        target_positions=(all_labels.view(-1) != IGNORE_INDEX).nonzero().view(-1),
        target_sequences=torch.arange(len(lengths)).repeat_interleave(torch.tensor(n_targets)),
        counts={"targets": sum(n_targets)},
        lengths=tuple(lengths),
        n_shared=sum(span.prefix_length for of_row in placed for span in of_row),
        spans=tuple(spans) if is_packed else (),
        span_table=_rectangle(table, len(spans)) if is_packed else None,
    )


def _placed(
    rows: Sequence[Sequence["Example"]], prefixes: Sequence[Sequence[Prefix | None]] | None
) -> list[list[Span]]:
    """Return where the sequences of each row are."""
    placed = []
    for number, row in enumerate(rows):
        spans: list[Span] = []
        column = 0
        for i, example in enumerate(row):
            prefix = None if prefixes is None else prefixes[number][i]
            n = prefix.length if prefix else 0
            end = column + len(example.tokens) - 1 - n
            spans.append(Span(number, column, end, spans[prefix.sequence].start if prefix and n else 0, n))
            column = end
        placed.append(spans)
    return placed


def _padding(last: Span, width: int, longest: int) -> list[Span]:
    """Return spans of what fills up a row, none longer than its longest sequence, which the model can read."""
    starts = range(last.end, width, longest)
    return [Span(last.row, start, min(start + longest, width)) for start in starts]


def _rectangle(values: "array[int]", n_rows: int) -> Tensor:
    """Make rows of equal length of numbers in one flat array; nothing is copied."""
    return torch.frombuffer(values, dtype=torch.long).view(n_rows, -1)
