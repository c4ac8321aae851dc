"""The keys that queries attend to, in the form that the chosen kernel needs.

Masks are built once per forward pass, before the layers, so that layers which are compiled or recomputed only read
them.
"""

from typing import TYPE_CHECKING

import torch
from attrs import define
from torch import Tensor

from torchtune.modules._attention_kernels import Kernel, Masking
from torchtune.modules._flex_attention import block_mask
from torchtune.modules._hardware import Hardware

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from torchtune.modules._documents import Documents
    from torchtune.modules._parts import AttentionSpec


@define(eq=False)
class AttentionMask:
    """The keys that queries attend to in the layers of one sliding window, and the kernel that computes them."""

    kernel: Kernel
    """The kernel, which determines the fields that are set."""
    dtype: torch.dtype
    """Dtype of queries, keys and values."""
    is_causal: bool = False
    """Whether query i attends to keys 0 to i; there is no other mask."""
    pairs: Tensor | None = None
    """`[b or 1, 1, s, keys]`, True if a query attends to a key; None: see `is_causal`."""
    blocks: "BlockMask | None" = None
    """The mask in blocks, for `flex`."""
    documents: "Documents | None" = None
    """The packed documents, for `per_document`."""
    ends: Tensor | None = None
    """`[n + 1]`, int32, the first position of each document in the flattened batch, and its end, for `varlen`."""
    window: int | None = None
    """Size of the sliding window, in keys, for `per_document` and `varlen`."""


@define(eq=False)
class PassShape:
    """Shape of a forward pass, which determines the keys that queries attend to."""

    tokens: Tensor
    """Token ids `[b, s]`."""
    hardware: Hardware
    """The hardware that the pass runs on."""
    positions: Tensor | None = None
    """`[b or 1, s]`, the slots of the tokens in the cache; None: consecutive."""
    start: int = 0
    """Number of tokens in the cache."""
    has_cache: bool = False
    """Whether there is a cache."""
    documents: "Documents | None" = None
    """The documents of packed rows."""

    def masking(self, window: int | None) -> Masking:
        """Return the masking of layers with a sliding window."""
        if self.documents is not None:
            return "prefixes" if self.documents.has_prefixes else "documents"
        length = self.tokens.shape[1]
        is_narrow = window is not None and self.start + length > window
        if not self.has_cache:
            return "window" if is_narrow else "causal"
        if is_narrow or self.positions is not None or (self.start and length > 1):
            return "mask"
        return "all" if self.start else "causal"

    def mask(self, spec: "AttentionSpec", window: int | None, dtype: torch.dtype) -> AttentionMask:
        """Build the mask of layers with a sliding window.

        Args:
            spec: The attention's spec, which chooses the kernel.
            window: Size of the sliding window, in keys; None: no window.
            dtype: Dtype of the residual stream.
        """
        masking = self.masking(window)
        # The rotation returns q and k in float32. On a CPU they stay in float32: the forward pass of bfloat16
        # attention is as fast, but its backward pass takes 3.6 times as long (torch 2.13, 256 tokens, 9 heads).
        dtype = torch.promote_types(dtype, torch.float32) if self.hardware.is_cpu else dtype
        kernel = spec.kernel(self.hardware, dtype, masking)
        if kernel == "per_document":
            return AttentionMask(kernel, dtype, documents=self.documents, window=window)
        if kernel == "varlen":
            assert self.documents is not None
            return AttentionMask(kernel, dtype, ends=self.documents.ends, window=window)
        if kernel == "flex":
            return AttentionMask(kernel, dtype, blocks=self._blocks(window))
        if masking in {"causal", "all"}:
            return AttentionMask(kernel, dtype, is_causal=masking == "causal")
        return AttentionMask(kernel, dtype, pairs=self._pairs(window))

    def _blocks(self, window: int | None) -> "BlockMask":
        if self.documents is not None:
            return self.documents.block_mask(window)
        b, s = self.tokens.shape
        columns = torch.arange(s, device=self.tokens.device)
        first = torch.zeros_like(columns) if window is None else (columns - window + 1).clamp(min=0)
        return block_mask(first.expand(b, -1))

    def _pairs(self, window: int | None) -> Tensor:
        if self.documents is not None:
            return self.documents.mask(window)
        slots = torch.arange(self.start + self.tokens.shape[1], device=self.tokens.device)
        # With a cache, positions are the columns of a row's tokens; without one, columns are counted along the row.
        is_consecutive = self.positions is None or not self.has_cache
        columns = slots[None, self.start :] if is_consecutive else self.positions  # [b or 1, s]
        assert columns is not None
        columns = columns[:, None, :, None]  # [b or 1, 1, s, 1]
        visible = slots <= columns
        return visible if window is None else visible & (slots > columns - window)
