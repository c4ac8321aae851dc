"""Rows that hold several documents, which must not see each other."""

import torch
import torch.nn.functional as F
from attrs import define, field
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from torchtune.modules._flex_attention import block_mask


@define(eq=False)
class Documents:
    """Which document of its row each token belongs to.

    Args:
        ids: `[b, s]`, the number of the document, never falling along a row. Padding is a document of its own.
    """

    ids: Tensor
    spans: list[tuple[int, int, int]] = field(init=False)
    """Every document as its row, its first token and the one behind its last, in order."""
    _block_masks: dict[int | None, BlockMask] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        steps = self.ids.diff(dim=1)
        if bool((steps < 0).any()):
            raise ValueError("document numbers must not fall along a row: a document stands in one piece")
        ends = [[*(row.nonzero()[:, 0] + 1).tolist(), self.ids.shape[1]] for row in steps.cpu() != 0]
        self.spans = [
            (row, start, end)
            for row, behind in enumerate(ends)
            for start, end in zip([0, *behind], behind, strict=False)
        ]

    @property
    def lengths(self) -> list[list[int]]:
        """How many tokens each document has, row by row."""
        found: list[list[int]] = [[] for _ in range(self.ids.shape[0])]
        for row, start, end in self.spans:
            found[row].append(end - start)
        return found

    @property
    def longest(self) -> int:
        """How many tokens the longest document has."""
        return max(end - start for _, start, end in self.spans)

    @property
    def positions(self) -> Tensor:
        """`[b, s]`, each token's place in its document, counted from 0."""
        return self._at - self.first_keys(None)

    def first_keys(self, window: int | None) -> Tensor:
        """`[b, s]`, the place in its row of the first key that each query sees; the last is the query's own."""
        begins = F.pad(self.ids.diff(dim=1) != 0, (1, 0))
        starts = torch.where(begins, self._at, 0).cummax(dim=1).values
        return starts if window is None else starts.maximum(self._at - window + 1)

    def mask(self, window: int | None) -> Tensor:
        """`[b, 1, s, s]`, True where a query sees a key: of its document, not behind it, and within the window."""
        return ((self._at >= self.first_keys(window)[:, :, None]) & (self._at <= self._at[:, None]))[:, None]

    def block_mask(self, window: int | None) -> BlockMask:
        """Return what `mask` says, in blocks, for `flex_attend`; made once for each window."""
        if window not in self._block_masks:
            self._block_masks[window] = block_mask(self.first_keys(window))
        return self._block_masks[window]

    @property
    def _at(self) -> Tensor:
        return torch.arange(self.ids.shape[1], device=self.ids.device)  # [s]
