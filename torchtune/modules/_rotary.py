"""Rotary position embeddings."""

import math
from typing import Literal

import torch
from attrs import define, field, frozen
from attrs.validators import gt
from torch import Tensor


@frozen(kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for sequences longer than those of pre-training.

    `linear` divides every frequency by the factor (arXiv 2306.15595). `llama3` divides the slow ones, leaves the fast
    ones, and goes from one to the other in between (Llama 3.1's `apply_scaling`, and `rope_type: llama3` in its
    config.json).
    """

    kind: Literal["linear", "llama3"]
    """Which of the two."""
    factor: float = field(validator=gt(0))
    """What slow frequencies are divided by."""
    low_freq_factor: float = field(default=1.0, validator=gt(0))
    """Frequencies that turn fewer times than this over the original length are slow."""
    high_freq_factor: float = field(default=4.0, validator=gt(0))
    """Frequencies that turn more often than this over the original length are fast."""
    original_max_seq_len: int = field(default=8192, validator=gt(0))
    """Longest sequence of pre-training, in tokens."""


@define(eq=False)
class Rotation:
    """The angles of a batch's positions, ready to turn queries and keys by.

    It is an object and not a pair of tensors so that nothing that casts a layer's inputs (mixed precision
    under FSDP does) can cut the angles down to 8 bits.
    """

    positions: Tensor
    """`[b or 1, s]`, counted from 0 at a sequence's first token."""
    cos: Tensor
    """`[b or 1, 1, s, head_dim / 2]`, float32 or wider."""
    sin: Tensor
    """`[b or 1, 1, s, head_dim / 2]`, float32 or wider."""
    turns: bool = True
    """False where positions turn nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        """Turn x `[b, h, s, head_dim]` by its positions; returned as wide as the angles.

        Number i is paired with number i + head_dim / 2, as in Hugging Face's checkpoints. The pairs in
        Meta's and GGUF files are neighbours, whose q_proj and k_proj have their rows in another order.
        """
        if not self.turns:
            return x.to(self.cos.dtype)
        left, right = x.to(self.cos.dtype).chunk(2, dim=-1)  # [b, h, s, head_dim / 2] each
        turned = left * self.cos - right * self.sin, right * self.cos + left * self.sin
        return torch.cat(turned, dim=-1)


class RotaryEmbedding:
    """Rotary position embeddings (RoPE, arXiv 2104.09864, section 3.2.2).

    Without tables: the angles are computed once per forward pass for all layers, which costs less than
    a thousandth of it, so there is no buffer to be lost on the meta device or cast along with a model.

    Args:
        head_dim: Width of one head, even.
        base: Base of the frequencies: pair i turns by base^(-2i / head_dim) radians per position.
        scaling: How the frequencies are stretched for longer sequences; None: not at all.
    """

    def __init__(self, head_dim: int, base: float, scaling: RopeScaling | None = None) -> None:
        self.head_dim = head_dim
        self.base = base
        self.scaling = scaling

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Compute the angles of positions `[b or 1, s]`, in float32 or in `dtype` if that is wider."""
        dtype = torch.promote_types(dtype, torch.float32)
        exponents = torch.arange(0, self.head_dim, 2, dtype=dtype, device=positions.device) / self.head_dim
        frequencies = 1.0 / self.base**exponents  # [head_dim / 2], radians per position
        if self.scaling is not None:
            frequencies = stretched(frequencies, self.scaling)
        angles = positions[:, None, :, None].to(dtype) * frequencies  # [b or 1, 1, s, head_dim / 2]
        return Rotation(positions, angles.cos(), angles.sin())


class NoRotation(RotaryEmbedding):
    """Positions that turn nothing, for decoders that add learnt ones to their embeddings."""

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Return angles of zero."""
        dtype = torch.promote_types(dtype, torch.float32)
        nothing = torch.zeros(1, 1, 1, 1, dtype=dtype, device=positions.device)
        return Rotation(positions, cos=nothing, sin=nothing, turns=False)


def stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Stretch rotary frequencies `[head_dim / 2]` (radians per position) for longer sequences."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)  # over the original length
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)  # 0 for slow frequencies, 1 for fast ones
    return frequencies * (kept + (1 - kept) / scaling.factor)
