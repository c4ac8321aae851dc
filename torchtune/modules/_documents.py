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
        shared: For each row, with how many tokens of the row's first document the others begin as well. They stand
            there once, every document of the row sees them, and the others' own tokens follow them. Empty: with none.
    """

    ids: Tensor
    shared: tuple[int, ...] = ()
    spans: list[tuple[int, int, int]] = field(init=False)
    """Every document as its row, its first token and the one behind its last, in order."""
    _block_masks: dict[int | None, BlockMask] = field(init=False, factory=dict)
    _masks_of_one: dict[tuple[int, int, int | None], Tensor] = field(init=False, factory=dict)

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
        if len(self.shared) not in {0, self.ids.shape[0]}:
            raise ValueError(
                f"shared: expected a number for each of {self.ids.shape[0]} rows, got {self.shared}"
            )
        for row, start, end in self.spans:
            if start == 0 and not 0 <= self.before(row, end) <= end:
                raise ValueError(
                    f"shared: the first document of row {row} has {end} tokens, not {self.shared[row]}"
                )

    def before(self, row: int, start: int) -> int:
        """Return how many shared tokens the document that begins at a place of a row sees before its own."""
        return self.shared[row] if self.shared and start > 0 else 0

    @property
    def lengths(self) -> list[list[int]]:
        """How many tokens each document has, row by row."""
        found: list[list[int]] = [[] for _ in range(self.ids.shape[0])]
        for row, start, end in self.spans:
            found[row].append(end - start)
        return found

    @property
    def longest(self) -> int:
        """How many tokens the longest document has, with those that it shares."""
        return max(self.before(row, start) + end - start for row, start, end in self.spans)

    @property
    def positions(self) -> Tensor:
        """`[b, s]`, each token's place in its document, counted from 0."""
        starts = self.first_keys(None)
        return self._at - starts + self._before(starts)

    def first_keys(self, window: int | None) -> Tensor:
        """`[b, s]`, the place in its row of the first key that each query sees; the last is the query's own."""
        begins = F.pad(self.ids.diff(dim=1) != 0, (1, 0))
        starts = torch.where(begins, self._at, 0).cummax(dim=1).values
        return starts if window is None else starts.maximum(self._at - window + 1)

    def shared_keys(self, window: int | None) -> tuple[Tensor, Tensor]:
        """`[b, s]` twice, the first of the shared keys that each query sees, and the one behind the last.

        A query whose document begins with them itself, or that sees none, has 0 and 0.
        """
        ends = self._before(self.first_keys(None))
        starts = torch.zeros_like(ends)
        if window is not None:
            starts = (self.positions - window + 1).clamp(min=0).minimum(ends)
        return starts, ends

    def mask(self, window: int | None) -> Tensor:
        """`[b, 1, s, s]`, True where a query sees a key: of its document, not behind it, and within the window."""
        seen = (self._at >= self.first_keys(window)[:, :, None]) & (self._at <= self._at[:, None])
        if any(self.shared):
            starts, ends = self.shared_keys(window)
            seen |= (self._at >= starts[:, :, None]) & (self._at < ends[:, :, None])
        return seen[:, None]

    def mask_of_one(self, length: int, before: int, window: int | None) -> Tensor | None:
        """`[1, 1, length, before + length]`, what queries of one document see; None: all keys up to their own place.

        Args:
            length: Tokens that the document does not share; they are the queries.
            before: Tokens that it shares; they are the first keys.
            window: Keys that a query sees, its own among them; None: all to its left.
        """
        is_narrow = window is not None and before + length > window
        if not (before or is_narrow):
            return None
        key = (length, before, window if is_narrow else None)
        if key not in self._masks_of_one:
            seen = torch.ones(length, before + length, dtype=torch.bool, device=self.ids.device).tril_(before)
            if is_narrow and window is not None:
                seen = seen.triu_(before - window + 1)
            self._masks_of_one[key] = seen[None, None]
        return self._masks_of_one[key]

    def block_mask(self, window: int | None) -> BlockMask:
        """Return what `mask` says, in blocks, for `flex_attend`; made once for each window."""
        if window not in self._block_masks:
            shared = self.shared_keys(window) if any(self.shared) else None
            self._block_masks[window] = block_mask(self.first_keys(window), shared)
        return self._block_masks[window]

    def _before(self, starts: Tensor) -> Tensor:
        """`[b, s]`, how many shared tokens stand before the document of each token, which begins at `starts`."""
        if not any(self.shared):
            return torch.zeros_like(starts)
        shared = torch.tensor(self.shared, device=starts.device)[:, None]
        return torch.where(starts > 0, shared, 0)

    @property
    def _at(self) -> Tensor:
        return torch.arange(self.ids.shape[1], device=self.ids.device)  # [s]
