"""Rotary position embeddings."""

import math
from typing import Literal

import torch
from attrs import define, field, frozen
from attrs.validators import gt
from torch import Tensor


@frozen(kw_only=True)
class RopeScaling:
    """Scaling of rotary frequencies for sequences that are longer than those seen in pre-training.

    `linear` divides every frequency by the factor (arXiv 2306.15595). `llama3` divides low frequencies, keeps high ones
    and interpolates in between (Llama 3.1's `apply_scaling`, and `rope_type: llama3` in its config.json).
    """

    kind: Literal["linear", "llama3"]
    """Method of scaling."""
    factor: float = field(validator=gt(0))
    """Divisor of the low frequencies."""
    low_freq_factor: float = field(default=1.0, validator=gt(0))
    """Frequencies that make fewer turns than this number over the original length are low."""
    high_freq_factor: float = field(default=4.0, validator=gt(0))
    """Frequencies that make more turns than this number over the original length are high."""
    original_max_seq_len: int = field(default=8192, validator=gt(0))
    """Maximum sequence length in pre-training (tokens)."""


@define(eq=False)
class Rotation:
    """Rotation of queries and keys by the angles of a batch's positions.

    This is an object rather than a pair of tensors, so that code that casts a layer's inputs, such as FSDP's mixed
    precision, does not round the angles to bfloat16.
    """

    positions: Tensor
    """`[b or 1, s]`, counted from 0 at a sequence's first token."""
    cos: Tensor
    """`[b or 1, 1, s, head_dim / 2]`, float32 or wider."""
    sin: Tensor
    """`[b or 1, 1, s, head_dim / 2]`, float32 or wider."""
    rotates: bool = True
    """Whether queries and keys are rotated at all."""

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x `[b, h, s, head_dim]` by its positions; the result has the dtype of the angles.

        Channel i is paired with channel i + head_dim / 2, as in Hugging Face checkpoints. Meta's checkpoints and GGUF
        files pair adjacent channels, and order the rows of q_proj and k_proj accordingly.
        """
        if not self.rotates:
            return x.to(self.cos.dtype)
        left, right = x.to(self.cos.dtype).chunk(2, dim=-1)  # [b, h, s, head_dim / 2] each
        rotated = left * self.cos - right * self.sin, right * self.cos + left * self.sin
        return torch.cat(rotated, dim=-1)


class RotaryEmbedding:
    """Rotary position embeddings (RoPE, arXiv 2104.09864, section 3.2.2).

    The angles are computed once per forward pass for all layers, which takes less than a thousandth of the pass's time.
    No tables are stored, so no buffer can be lost on the meta device or cast with the model.

    Args:
        head_dim: Width of one head; even.
        base: Base of the frequencies: pair i rotates by base^(-2i / head_dim) radians per position.
        scaling: Scaling of the frequencies for longer sequences; None: no scaling.
    """

    def __init__(self, head_dim: int, base: float, scaling: RopeScaling | None = None) -> None:
        self.head_dim = head_dim
        self.base = base
        self.scaling = scaling

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Compute the rotation of positions `[b or 1, s]`, in float32 or in `dtype` if that is wider."""
        dtype = torch.promote_types(dtype, torch.float32)
        exponents = torch.arange(0, self.head_dim, 2, dtype=dtype, device=positions.device) / self.head_dim
        frequencies = 1.0 / self.base**exponents  # [head_dim / 2], radians per position
        if self.scaling is not None:
            frequencies = scale_frequencies(frequencies, self.scaling)
        angles = positions[:, None, :, None].to(dtype) * frequencies  # [b or 1, 1, s, head_dim / 2]
        return Rotation(positions, angles.cos(), angles.sin())


class NoRotation(RotaryEmbedding):
    """Placeholder for decoders without rotary embeddings; leaves queries and keys unchanged."""

    def __call__(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Return a rotation that leaves its input unchanged."""
        dtype = torch.promote_types(dtype, torch.float32)
        zero = torch.zeros(1, 1, 1, 1, dtype=dtype, device=positions.device)
        return Rotation(positions, cos=zero, sin=zero, rotates=False)


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Scale rotary frequencies `[head_dim / 2]` (radians per position) for longer sequences."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)  # over the original length
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    weight = ((turns - low) / (high - low)).clamp(0, 1)  # 0 for low frequencies, 1 for high ones
    return frequencies * (weight + (1 - weight) / scaling.factor)
