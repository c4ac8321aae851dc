"""Packed rows, which contain multiple documents that must not attend to each other."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from attrs import define, field
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from torchtune.modules._flex_attention import block_mask


class DocumentSpan(NamedTuple):
    """The span of a document in its row, and the span of the prefix that it continues."""

    row: int
    start: int
    """Column of the first token."""
    end: int
    """Column after the last token."""
    prefix_start: int = 0
    """Column of the prefix's first token; multiple documents of the row may share a prefix."""
    prefix_length: int = 0
    """Number of tokens in the prefix; 0: no prefix."""


@define(eq=False)
class Documents:
    """The documents of a packed batch: a token attends to its document, and to the prefix that the document continues.

    The spans cover all positions of all rows in order; padding forms separate documents. A prefix is the beginning of
    an earlier document of the row that has no prefix itself; any number of documents may continue it. Positions
    continue from the end of the prefix.

    Nothing is read back from a device: the inputs of the kernels are computed from the spans on the host, or from
    `table` on the device.

    Args:
        spans: `(row, start, end, prefix_start, prefix_length)` of every document (`DocumentSpan`).
        table: `[n, 5]`, int64, the same numbers on the tokens' device; None: the tokens are on the CPU.

    Raises:
        ValueError: The spans do not cover all positions, or a prefix is not the beginning of a document.
    """

    spans: Sequence[tuple[int, int, int, int, int]]
    table: Tensor | None = None
    _by_token: Tensor | None = field(init=False, default=None)
    _document_masks: dict[tuple[int, int, int | None], Tensor] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        spans = [DocumentSpan(*span) for span in self.spans]
        _check(spans)
        self.spans = spans

    @classmethod
    def from_lengths(
        cls,
        lengths: Sequence[Sequence[int]],
        prefixes: Iterable[Iterable[tuple[int, int]]] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Build documents from their lengths.

        Args:
            lengths: Number of tokens in each document, row by row; all rows have the same total.
            prefixes: Start column and length of each document's prefix, row by row; (0, 0) for a document without a
                prefix. None: no document has a prefix.
            device: Device of the tokens.
        """
        row_prefixes = [[(0, 0)] * len(row) for row in lengths] if prefixes is None else prefixes
        spans = []
        for row, (row_lengths, document_prefixes) in enumerate(zip(lengths, row_prefixes, strict=True)):
            start = 0
            for length, prefix in zip(row_lengths, document_prefixes, strict=True):
                spans.append(DocumentSpan(row, start, start + length, *prefix))
                start += length
        return cls(spans, torch.tensor(spans, device=device))

    @property
    def lengths(self) -> list[list[int]]:
        """Number of tokens in each document, not including its prefix, row by row."""
        lengths: list[list[int]] = [[] for _ in range(self.spans[-1][0] + 1)]
        for row, start, end, _, _ in self.spans:
            lengths[row].append(end - start)
        return lengths

    @property
    def longest(self) -> int:
        """Number of tokens in the longest document, including its prefix."""
        return max(prefix_length + end - start for _, start, end, _, prefix_length in self.spans)

    @property
    def has_prefixes(self) -> bool:
        """Whether any document continues a prefix."""
        return any(span[4] for span in self.spans)

    @property
    def positions(self) -> Tensor:
        """`[b, s]`, the position of each token in its document, counted from 0 at the first token of the prefix."""
        _, start, _, _, prefix_length = self._spans_by_token()
        return self._columns - start + prefix_length

    def first_keys(self, window: int | None) -> Tensor:
        """Return the first column that each query attends to, `[b, s]`; the last one is the query's own column."""
        start = self._spans_by_token()[1]
        return start if window is None else start.maximum(self._columns - window + 1)

    def prefix_keys(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Return the start and the (exclusive) end column of the prefix keys that each query attends to, `[b, s]` each.

        Start and end are equal for queries that attend to no prefix.
        """
        _, _, _, start, length = self._spans_by_token()
        if window is None:
            return start, start + length
        return start + (self.positions - window + 1).clamp(min=0).minimum(length), start + length

    def mask(self, window: int | None) -> Tensor:
        """Return a mask `[b, 1, s, s]`, True for keys of the query's document up to the query, within the window."""
        columns = self._columns
        visible = (columns >= self.first_keys(window)[:, :, None]) & (columns <= columns[:, None])
        if self.has_prefixes:
            starts, ends = self.prefix_keys(window)
            visible |= (columns >= starts[:, :, None]) & (columns < ends[:, :, None])
        return visible[:, None]

    def document_mask(
        self, length: int, prefix_length: int, window: int | None, device: torch.device
    ) -> Tensor | None:
        """Return the mask `[1, 1, length, prefix_length + length]` of one document; None: plain causal attention.

        Args:
            length: Number of tokens in the document after its prefix; they are the queries.
            prefix_length: Number of tokens in the prefix; they are the first keys.
            window: Size of the sliding window, in keys, including the query's own; None: no window.
            device: Device of the keys.
        """
        is_narrow = window is not None and prefix_length + length > window
        if not (prefix_length or is_narrow):
            return None
        key = (length, prefix_length, window if is_narrow else None)
        if key not in self._document_masks:
            visible = torch.ones(length, prefix_length + length, dtype=torch.bool, device=device).tril_(
                prefix_length
            )
            if is_narrow and window is not None:
                visible = visible.triu_(prefix_length - window + 1)
            self._document_masks[key] = visible[None, None]
        return self._document_masks[key]

    def block_mask(self, window: int | None) -> BlockMask:
        """Return the mask in blocks, for `flex_attend`."""
        prefixes = self.prefix_keys(window) if self.has_prefixes else None
        return block_mask(self.first_keys(window), prefixes)

    @property
    def ends(self) -> Tensor:
        """`[n + 1]`, int32, the first position of each document in the flattened batch, and the end of the batch.

        n is rounded up to a power of two by empty documents at the end, so that few numbers occur.
        """
        table = self._device_table()  # [n, 5]
        width, n_tokens = self.spans[-1][2], (self.spans[-1][0] + 1) * self.spans[-1][2]
        n = 1 << (len(self.spans) - 1).bit_length()
        ends = table.new_full((n + 1,), n_tokens, dtype=torch.int32)
        ends[: len(self.spans)] = table[:, 0] * width + table[:, 1]
        return ends

    def _device_table(self) -> Tensor:
        return torch.tensor(self.spans) if self.table is None else self.table

    def _spans_by_token(self) -> tuple[Tensor, ...]:
        """Return each field of `DocumentSpan` as `[b, s]`: the value of the document that a token belongs to."""
        if self._by_token is None:
            rows, width = self.spans[-1][0] + 1, self.spans[-1][2]
            table = self._device_table()  # [n, 5]
            # Passing the output size avoids waiting for the device.
            numbers = torch.repeat_interleave(
                table, table[:, 2] - table[:, 1], dim=0, output_size=rows * width
            )
            self._by_token = numbers.T.contiguous().view(5, rows, width)
        return self._by_token.unbind()

    @property
    def _columns(self) -> Tensor:
        by_token = self._spans_by_token()[0]
        return torch.arange(by_token.shape[1], device=by_token.device)  # [s]


def _check(spans: Sequence[DocumentSpan]) -> None:
    """Raise ValueError unless the spans cover rows of equal width and each prefix is the beginning of a document."""
    width = spans[-1].end
    previous = DocumentSpan(-1, 0, width)
    lengths: dict[int, int] = {}  # of the row's documents without a prefix, by first column
    for span in spans:
        is_next = span.start == previous.end
        if span.row != previous.row:
            is_next = span.row == previous.row + 1 and span.start == 0 and previous.end == width
            lengths = {}
        if not is_next or span.end <= span.start:
            raise ValueError(f"documents must cover every position of every row in order; {span} does not")
        if span.prefix_length == 0:
            lengths[span.start] = span.end - span.start
        elif not 0 < span.prefix_length <= lengths.get(span.prefix_start, 0):
            raise ValueError(
                f"the prefix of {span} must be the beginning of an earlier document of the same pack"
            )
        previous = span
