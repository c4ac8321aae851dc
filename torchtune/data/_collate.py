"""Collate items into rectangular tensors."""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from torchtune.data._batch import IGNORE_INDEX, Batch, Span, padding_spans
from torchtune.data._item import Item, common_type

if TYPE_CHECKING:
    from torchtune.data._example import Example


class Prefix(NamedTuple):
    """A prefix that a sequence shares with an earlier sequence in its batch row, which stores the tokens only once."""

    sequence: int
    """Index of the earlier sequence in the row, which itself shares no prefix."""
    length: int
    """Number of tokens in the prefix, possibly 0. None of them predicts a target."""


def collate(rows: Sequence[Item | Sequence[Item]], pad_id: int, *, share_prefixes: bool = False) -> Batch:
    """Collate items into a batch with the `collate` method of their type (`Item.collate`).

    Args:
        rows: The batch rows; each is an item or a sequence of items.
        pad_id: Token id used for padding; padding is never a target, even if the id is also an ordinary token.
        share_prefixes: Store the common prefix of all items in a row only once, if their type supports it.

    Raises:
        ValueError: there are no items, or they have different types.
    """
    packed = [[row] if isinstance(row, Item) else row for row in rows]
    if not packed or not all(packed):
        raise ValueError("a batch needs at least one example in every row")
    common_type(item for row in packed for item in row)
    return packed[0][0].collate(packed, pad_id, share_prefixes=share_prefixes)


def join_sequences(
    rows: Sequence[Sequence["Example"]],
    pad_id: int,
    prefixes: Sequence[Sequence[Prefix | None]] | None = None,
) -> Batch:
    """Concatenate token sequences into batch rows, padded on the right to the longest row.

    A sequence's last token is predicted but never fed to the model, so a sequence of n tokens occupies n - 1
    positions. Padding is on the right, where causal attention does not see it, so rows with a single sequence need no
    mask.

    Args:
        rows: The sequences of each row; every row has at least one.
        pad_id: Token id used for padding.
        prefixes: The prefix that each sequence shares with an earlier sequence in its row. None: no prefixes are
            shared.

    Returns:
        A batch whose only count is "targets".
    """
    tokens, labels, table = array("q"), array("q"), array("q")
    spans, lengths, n_targets = list[Span](), list[int](), list[int]()
    sequence_spans = _sequence_spans(rows, prefixes)
    width = max(row_spans[-1].end for row_spans in sequence_spans)
    for row, row_spans in zip(rows, sequence_spans, strict=True):
        for example, span in zip(row, row_spans, strict=True):
            example_labels = example.labels[span.prefix_length + 1 :]
            tokens.fromlist(example.tokens[span.prefix_length : -1])
            labels.fromlist(example_labels)
            lengths.append(len(example.tokens) - 1)
            n_targets.append(len(example_labels) - example_labels.count(IGNORE_INDEX))
        n_padding = width - row_spans[-1].end
        tokens.fromlist([pad_id] * n_padding)
        labels.fromlist([IGNORE_INDEX] * n_padding)
        # No padding span is longer than the longest sequence of its row.
        spans += [*row_spans, *padding_spans(row_spans[-1], width, max(lengths[-len(row) :]))]
    is_packed = any(len(row) > 1 for row in rows)
    for span in spans if is_packed else ():
        table.extend(span)
    all_labels = _as_matrix(labels, len(rows))
    return Batch(
        _as_matrix(tokens, len(rows)),
        all_labels,
        target_positions=(all_labels.view(-1) != IGNORE_INDEX).nonzero().view(-1),
        target_sequences=torch.arange(len(lengths)).repeat_interleave(torch.tensor(n_targets)),
        counts={"targets": sum(n_targets)},
        lengths=tuple(lengths),
        n_shared=sum(span.prefix_length for row_spans in sequence_spans for span in row_spans),
        spans=tuple(spans) if is_packed else (),
        span_table=_as_matrix(table, len(spans)) if is_packed else None,
    )


def _sequence_spans(
    rows: Sequence[Sequence["Example"]], prefixes: Sequence[Sequence[Prefix | None]] | None
) -> list[list[Span]]:
    """Return the spans of each row's sequences."""
    all_spans = []
    for row_index, row in enumerate(rows):
        spans: list[Span] = []
        column = 0
        for i, example in enumerate(row):
            prefix = None if prefixes is None else prefixes[row_index][i]
            n = prefix.length if prefix else 0
            end = column + len(example.tokens) - 1 - n
            spans.append(Span(row_index, column, end, spans[prefix.sequence].start if prefix and n else 0, n))
            column = end
        all_spans.append(spans)
    return all_spans


def _as_matrix(values: "array[int]", n_rows: int) -> Tensor:
    """View a flat array as a tensor with n_rows rows, without copying."""
    return torch.frombuffer(values, dtype=torch.long).view(n_rows, -1)
