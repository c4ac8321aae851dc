"""Rows that hold several documents, which must not see each other."""

import torch
from attrs import define, field
from torch import Tensor


@define(eq=False)
class Documents:
    """Which document of its row each token belongs to.

    Args:
        ids: `[b, s]`, the number of the document, never falling along a row. Padding is a document of its own.
    """

    ids: Tensor
    spans: list[tuple[int, int, int]] = field(init=False)
    """Every document as its row, its first token and the one behind its last, in order."""

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
    def positions(self) -> Tensor:
        """`[b, s]`, each token's place in its document, counted from 0."""
        positions = torch.arange(self.ids.shape[1], device=self.ids.device).repeat(self.ids.shape[0], 1)
        for row, start, end in self.spans:
            positions[row, start:end] -= start
        return positions

    def mask(self, window: int | None) -> Tensor:
        """`[b, 1, s, s]`, True where a query sees a key: of its document, not behind it, and within the window."""
        at = torch.arange(self.ids.shape[1], device=self.ids.device)
        seen = at[None, :] <= at[:, None]
        if window is not None:
            seen &= at[None, :] > at[:, None] - window
        same = self.ids[:, None, :, None] == self.ids[:, None, None, :]
        return same & seen
