"""Causal self-attention."""

from typing import TYPE_CHECKING, Any, Literal

import torch
from attrs import Attribute, field, frozen
from attrs.validators import gt, optional
from torch import Tensor, nn

from torchtune.modules._attend import attend
from torchtune.modules._attention_kernels import AttentionCall, Kernel, Masking, choose_kernel
from torchtune.modules._context import PassContext
from torchtune.modules._hardware import Hardware
from torchtune.modules._lean import LeanLayer, rotate
from torchtune.modules._linear import Linear
from torchtune.modules._parts import AttentionSpec, NormSpec
from torchtune.modules._rotary import Rotation

if TYPE_CHECKING:
    from torchtune.modules._architecture import Architecture


def _is_divisor_of_num_heads(spec: "GroupedQuerySpec", attribute: "Attribute[int]", value: int) -> None:
    if spec.num_heads % value:
        raise ValueError(
            f"{attribute.name} = {value} does not divide num_heads = {spec.num_heads};"
            " each key-value head must serve the same number of query heads"
        )


def _is_even(_: Any, attribute: "Attribute[int]", value: int) -> None:  # attrs passes the instance first
    if value % 2:
        raise ValueError(f"{attribute.name} = {value} is odd; rotary embeddings rotate pairs of channels")


@frozen(kw_only=True)
class GroupedQuerySpec(AttentionSpec):
    """Grouped-query attention, optionally with a sliding window in some or all layers."""

    num_heads: int = field(validator=gt(0))
    """Query heads per layer."""
    num_kv_heads: int = field(validator=[gt(0), _is_divisor_of_num_heads])
    """Key-value heads per layer; fewer than `num_heads` results in grouped-query attention (arXiv 2305.13245)."""
    head_dim: int = field(validator=[gt(0), _is_even])
    """Width of one head."""
    qkv_bias: bool = False
    """Whether the query, key and value projections have biases."""
    o_bias: bool = False
    """Whether the output projection has a bias."""
    qk_norm: Literal["head", "whole"] | None = None
    """Norm of queries and keys before rotation: per head, or over all heads; None: no norm."""
    attention_scale: float | None = field(default=None, validator=optional(gt(0)))
    """Scale factor applied to the attention scores; None: head_dim ** -0.5."""
    attention_softcap: float | None = field(default=None, validator=optional(gt(0)))
    """Bound c of attention scores s, which become c tanh(s / c) (arXiv 2408.00118, section 2); None: no soft cap."""
    window: int | None = field(default=None, validator=optional(gt(0)))
    """Size of the sliding window, in keys, including the query's own; None: no sliding window."""
    full_attention_every: int | None = field(default=None, validator=optional(gt(0)))
    """Every n-th layer, counted from 1, has full attention instead of the sliding window; None: no layer does."""

    @property
    def rotary_dim(self) -> int:
        """Number of rotated channels per head; all channels are rotated."""
        return self.head_dim

    @property
    def query_width(self) -> int:
        """Total number of channels of all query heads."""
        return self.num_heads * self.head_dim

    def window_of(self, index: int) -> int | None:
        """Return the sliding window (number of keys) of layer `index`, counted from 0; None: full causal attention."""
        interval = self.full_attention_every
        is_full = interval is not None and (index + 1) % interval == 0
        return None if is_full else self.window

    def kernel(self, hardware: Hardware, dtype: torch.dtype, masking: Masking) -> Kernel:
        """Choose the kernel according to the table in `_attention_kernels`."""
        return choose_kernel(
            AttentionCall(
                hardware=hardware,
                dtype=dtype,
                head_dim=self.head_dim,
                masking=masking,
                has_softcap=self.attention_softcap is not None,
                needs_grad=torch.is_grad_enabled(),
            )
        )

    def build(self, architecture: "Architecture", index: int) -> "Attention":  # noqa: ARG002 -- layers are alike
        """Build the attention of a layer; all layers have the same modules."""
        return Attention(architecture.embed_dim, self, architecture.norm)


class Attention(LeanLayer, nn.Module):
    """Causal self-attention with rotary positions and grouped key-value heads (arXiv 2305.13245).

    Args:
        embed_dim: Width of the residual stream, d.
        spec: Sizes and options.
        norm: Spec of the query and key norms.
    """

    def __init__(self, embed_dim: int, spec: GroupedQuerySpec, norm: NormSpec) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.qk_norm = spec.qk_norm
        self.scale = spec.head_dim**-0.5 if spec.attention_scale is None else spec.attention_scale
        self.softcap = spec.attention_softcap
        self.q_proj = Linear(embed_dim, spec.num_heads * spec.head_dim, bias=spec.qkv_bias)
        self.k_proj = Linear(embed_dim, spec.num_kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.v_proj = Linear(embed_dim, spec.num_kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.o_proj = Linear(spec.num_heads * spec.head_dim, embed_dim, bias=spec.o_bias)
        if spec.qk_norm is not None:
            q_heads, k_heads = (1, 1) if spec.qk_norm == "head" else (spec.num_heads, spec.num_kv_heads)
            self.q_norm = norm.build(q_heads * spec.head_dim)
            self.k_norm = norm.build(k_heads * spec.head_dim)

    def forward(self, x: Tensor, context: PassContext) -> Tensor:
        """Map x `[b, s, d]` to `[b, s, d]`; each token attends to itself and earlier tokens."""
        rotation, mask, cache = context.rotation, context.mask, context.cache
        assert mask is not None
        q = self.q_proj(x)  # [b, s, h * head_dim]
        k = self.k_proj(x)  # [b, s, kv * head_dim]
        v = self.v_proj(x)  # [b, s, kv * head_dim]
        if self.qk_norm == "whole":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = self._heads(q), self._heads(k), self._heads(v)  # [b, h or kv, s, head_dim]
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self._rotate(q, rotation), self._rotate(k, rotation)
        q, k, v = q.to(mask.dtype), k.to(mask.dtype), v.to(mask.dtype)
        if cache is not None:
            k, v = cache.update(k, v, rotation.positions)
        out = attend(q, k, v, mask, scale=self.scale, softcap=self.softcap)
        y: Tensor = self.o_proj(out.transpose(1, 2).flatten(2).to(x.dtype))  # [b, s, d]
        return y

    def _rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        if self.is_lean and rotation.rotates:
            return rotate(x, rotation.cos, rotation.sin)
        return rotation(x)

    def _heads(self, x: Tensor) -> Tensor:
        """Split `[b, s, h * head_dim]` into `[b, h, s, head_dim]`."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
