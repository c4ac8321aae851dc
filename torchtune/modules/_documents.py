"""Rows that hold several documents, which must not see each other."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from attrs import define, field
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from torchtune.modules._flex_attention import block_mask


class DocumentSpan(NamedTuple):
    """Where a document is, and which tokens of its row it continues."""

    row: int
    start: int
    """The column of its first token."""
    end: int
    """The column after its last."""
    prefix_start: int = 0
    """The column of the first token that it continues; those tokens are in the row once, for several documents."""
    prefix_length: int = 0
    """How many tokens it continues; 0: it begins by itself."""


@define(eq=False)
class Documents:
    """The documents of a batch: each token sees those of its own document, and the prefix that the document continues.

    The spans cover all positions of all rows in order, padding being documents of its own. A prefix is the beginning of
    an earlier document of the row that itself continues none; any number of documents may continue it. Positions are
    counted on from the prefix.

    Nothing is read back from a device: what the kernels need is computed from the spans on the host, or from
    `table` on the device.

    Args:
        spans: `(row, start, end, prefix_start, prefix_length)` of every document (`DocumentSpan`).
        table: `[n, 5]`, int64, the same numbers on the tokens' device. None: the tokens are on the CPU.

    Raises:
        ValueError: The spans leave positions out, or a prefix is not the beginning of a document.
    """

    spans: Sequence[tuple[int, int, int, int, int]]
    table: Tensor | None = None
    _by_token: Tensor | None = field(init=False, default=None)
    _block_masks: dict[int | None, BlockMask] = field(init=False, factory=dict)
    _masks_of_one: dict[tuple[int, int, int | None], Tensor] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        spans = [DocumentSpan(*span) for span in self.spans]
        _check(spans)
        self.spans = spans

    @classmethod
    def of_lengths(
        cls,
        lengths: Sequence[Sequence[int]],
        prefixes: Iterable[Iterable[tuple[int, int]]] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Make documents of how many tokens each has.

        Args:
            lengths: Row by row; all rows have equally many tokens in all.
            prefixes: Row by row and document by document, where the prefix that it continues begins in the row, and how
                many tokens that has; (0, 0) for none. None: no document continues another.
            device: Where the tokens are.
        """
        of_rows = [[(0, 0)] * len(row) for row in lengths] if prefixes is None else prefixes
        spans = []
        for row, (of_row, before) in enumerate(zip(lengths, of_rows, strict=True)):
            start = 0
            for length, prefix in zip(of_row, before, strict=True):
                spans.append(DocumentSpan(row, start, start + length, *prefix))
                start += length
        return cls(spans, torch.tensor(spans, device=device))

    @property
    def lengths(self) -> list[list[int]]:
        """How many tokens each document has, row by row, without its prefix."""
        lengths: list[list[int]] = [[] for _ in range(self.spans[-1][0] + 1)]
        for row, start, end, _, _ in self.spans:
            lengths[row].append(end - start)
        return lengths

    @property
    def longest(self) -> int:
        """How many tokens the longest document has, with its prefix."""
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
        """`[b, s]`, the column of the first key of its document that each query sees; the last is the query's."""
        start = self._spans_by_token()[1]
        return start if window is None else start.maximum(self._columns - window + 1)

    def prefix_keys(self, window: int | None) -> tuple[Tensor, Tensor]:
        """`[b, s]` twice, the columns of the first key of its prefix that each query sees, and after the last one.

        The two are equal where there is none.
        """
        _, _, _, start, length = self._spans_by_token()
        if window is None:
            return start, start + length
        return start + (self.positions - window + 1).clamp(min=0).minimum(length), start + length

    def mask(self, window: int | None) -> Tensor:
        """`[b, 1, s, s]`, True where a query sees a key: of its document, not after it, and within the window."""
        columns = self._columns
        seen = (columns >= self.first_keys(window)[:, :, None]) & (columns <= columns[:, None])
        if self.has_prefixes:
            starts, ends = self.prefix_keys(window)
            seen |= (columns >= starts[:, :, None]) & (columns < ends[:, :, None])
        return seen[:, None]

    def mask_of_one(
        self, length: int, prefix_length: int, window: int | None, device: torch.device
    ) -> Tensor | None:
        """`[1, 1, length, prefix_length + length]`, what queries of one document see; None: all keys up to their own.

        Args:
            length: Tokens of the document after its prefix; they are the queries.
            prefix_length: Tokens of the prefix; they are the first keys.
            window: Keys that a query sees, its own among them; None: all to its left.
            device: Where the keys are.
        """
        is_narrow = window is not None and prefix_length + length > window
        if not (prefix_length or is_narrow):
            return None
        key = (length, prefix_length, window if is_narrow else None)
        if key not in self._masks_of_one:
            seen = torch.ones(length, prefix_length + length, dtype=torch.bool, device=device).tril_(
                prefix_length
            )
            if is_narrow and window is not None:
                seen = seen.triu_(prefix_length - window + 1)
            self._masks_of_one[key] = seen[None, None]
        return self._masks_of_one[key]

    def block_mask(self, window: int | None) -> BlockMask:
        """Return what `mask` says, in blocks, for `flex_attend`; made once for each window."""
        if window not in self._block_masks:
            prefixes = self.prefix_keys(window) if self.has_prefixes else None
            self._block_masks[window] = block_mask(self.first_keys(window), prefixes)
        return self._block_masks[window]

    def _spans_by_token(self) -> tuple[Tensor, ...]:
        """Return `[b, s]` of each number of a span: that of the document which a token belongs to."""
        if self._by_token is None:
            rows, width = self.spans[-1][0] + 1, self.spans[-1][2]
            table = torch.tensor(self.spans) if self.table is None else self.table  # [n, 5]
            # With the size of the result, nothing waits for the device.
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
    """Check that spans cover rows of one width, and that prefixes are the beginnings of documents."""
    width = spans[-1].end
    before = DocumentSpan(-1, 0, width)
    lengths: dict[int, int] = {}  # of the row's documents that continue none, by their first column
    for span in spans:
        is_next = span.start == before.end
        if span.row != before.row:
            is_next = span.row == before.row + 1 and span.start == 0 and before.end == width
            lengths = {}
        if not is_next or span.end <= span.start:
            raise ValueError(f"documents must cover every position of every row in order; {span} does not")
        if span.prefix_length == 0:
            lengths[span.start] = span.end - span.start
        elif not 0 < span.prefix_length <= lengths.get(span.prefix_start, 0):
            raise ValueError(f"the prefix of {span} is not the beginning of an earlier document of its row")
        before = span
