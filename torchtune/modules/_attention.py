"""Causal self-attention."""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from attrs import Attribute, field, frozen
from attrs.validators import gt, optional
from torch import Tensor, nn

from torchtune.modules._context import PassContext
from torchtune.modules._documents import Documents
from torchtune.modules._flex_attention import flex_attend
from torchtune.modules._lean import Lean, turned
from torchtune.modules._linear import Linear
from torchtune.modules._parts import AttentionSpec, NormSpec
from torchtune.modules._rotary import Rotation

if TYPE_CHECKING:
    from torchtune.modules._architecture import Architecture


def _is_divisor_of_num_heads(spec: "GroupedQuerySpec", attribute: "Attribute[int]", value: int) -> None:
    if spec.num_heads % value:
        raise ValueError(
            f"{attribute.name} = {value} does not divide num_heads = {spec.num_heads};"
            " every key-value head serves the same number of query heads"
        )


def _is_even(_: Any, attribute: "Attribute[int]", value: int) -> None:  # attrs passes the instance.
    if value % 2:
        raise ValueError(f"{attribute.name} = {value} is odd; rotary embeddings turn pairs of numbers")


@frozen(kw_only=True)
class GroupedQuerySpec(AttentionSpec):
    """Attention whose query heads share key-value heads in groups, with a sliding window in some or all layers."""

    num_heads: int = field(validator=gt(0))
    """Query heads per layer."""
    num_kv_heads: int = field(validator=[gt(0), _is_divisor_of_num_heads])
    """Key-value heads per layer; fewer than `num_heads` is grouped-query attention (arXiv 2305.13245)."""
    head_dim: int = field(validator=[gt(0), _is_even])
    """Width of one head."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias."""
    o_bias: bool = False
    """Whether attention's output has a bias."""
    qk_norm: Literal["head", "whole"] | None = None
    """Norm of queries and keys before they are turned: of each head, or of all heads together; None: none."""
    attention_scale: float | None = field(default=None, validator=optional(gt(0)))
    """What the products of queries and keys are multiplied by; None: head_dim ** -0.5."""
    attention_softcap: float | None = field(default=None, validator=optional(gt(0)))
    """Bound c of attention scores s, which become c tanh(s / c) (arXiv 2408.00118, section 2); None: none."""
    window: int | None = field(default=None, validator=optional(gt(0)))
    """Keys that a query of a sliding layer sees, its own among them; None: no layer slides."""
    full_attention_every: int | None = field(default=None, validator=optional(gt(0)))
    """Of the layers, counted from 1, every n-th sees everything although there is a window; None: none does."""

    @property
    def rotary_dim(self) -> int:
        """Width of one head."""
        return self.head_dim

    @property
    def pair_width(self) -> int:
        """Channels of all query heads together."""
        return self.num_heads * self.head_dim

    def window_of(self, index: int) -> int | None:
        """Return how many keys a query of a layer, counted from 0, sees, its own included; None: all to its left."""
        every = self.full_attention_every
        is_full = every is not None and (index + 1) % every == 0
        return None if is_full else self.window

    def build(self, architecture: "Architecture", index: int) -> "Attention":
        """Build the attention of a layer, counted from 0."""
        return Attention(architecture.embed_dim, self, architecture.norm, self.window_of(index))


class Attention(Lean, nn.Module):
    """Causal self-attention with rotary positions and grouped key-value heads (arXiv 2305.13245).

    Args:
        embed_dim: Width of the residual stream, d.
        spec: Its sizes, and whether there are biases, norms of queries and keys, a scale and a soft cap.
        norm: The kind of those norms.
        window: Keys that a query sees, its own among them; None: all to its left.
    """

    def __init__(
        self, embed_dim: int, spec: GroupedQuerySpec, norm: NormSpec, window: int | None = None
    ) -> None:
        super().__init__()
        self.window = window
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
        """Let every token of x `[b, s, d]` look at itself and those before it; returns `[b, s, d]`."""
        rotation, mask, cache, documents = context.rotation, context.mask, context.cache, context.documents
        q = self.q_proj(x)  # [b, s, h * head_dim]
        k = self.k_proj(x)  # [b, s, kv * head_dim]
        v = self.v_proj(x)  # [b, s, kv * head_dim]
        if self.qk_norm == "whole":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = self._heads(q), self._heads(k), self._heads(v)  # [b, h or kv, s, head_dim]
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self._turned(q, rotation), self._turned(k, rotation)
        # The rotation has left q and k in float32. On a CPU they stay there: attention of bfloat16 is
        # as fast forwards, but its backward takes 3.6 times as long (torch 2.13, 256 tokens, 9 heads).
        dtype = q.dtype if x.device.type == "cpu" else v.dtype
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        # A single token behind a cache sees all its keys; is_causal would show it the first one only.
        is_causal = mask is None and (cache is None or q.shape[2] > 1)
        if cache is not None:
            k, v = cache.update(k, v, rotation.positions)
        if documents is not None:
            kernel = document_kernel(q.device.type, q.shape[3], q.dtype)
            out = kernel(q, k, v, documents, self.window, scale=self.scale, softcap=self.softcap)
        else:
            out = attend(q, k, v, mask, is_causal=is_causal, scale=self.scale, softcap=self.softcap)
        y: Tensor = self.o_proj(out.transpose(1, 2).flatten(2).to(x.dtype))  # [b, s, d]
        return y

    def _turned(self, x: Tensor, rotation: Rotation) -> Tensor:
        if self.is_lean and rotation.turns:
            return turned(x, rotation.cos, rotation.sin)
        return rotation(x)

    def _heads(self, x: Tensor) -> Tensor:
        """Split `[b, s, h * head_dim]` into `[b, h, s, head_dim]`."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """Mix values by how queries and keys agree; each group of query heads shares a key-value head.

    Without a soft cap it is one of torch's kernels, which copy no keys where they can. No kernel of torch has a cap
    on a CPU, so that one is written out.

    Args:
        q: `[b, h, s, head_dim]`.
        k: `[b, kv_heads, keys, head_dim]`.
        v: `[b, kv_heads, keys, head_dim]`.
        mask: `[b or 1, 1, s, keys]`, True where a query sees a key; None: see `is_causal`.
        is_causal: Query i sees keys 0 to i.
        scale: What products are multiplied by.
        softcap: Bound of the scores.

    Returns:
        `[b, h, s, head_dim]`.
    """
    if softcap is None and q.shape[0] == 1 and k.shape[1] < q.shape[1] and q.device.type == "cpu":
        # On a CPU `enable_gqa` copies keys and values for each head of a group, and keeps the copies for the backward
        # pass. Groups as rows of a batch see the one pair as a view.
        groups = torch.unflatten(q[0], 0, (k.shape[1], -1))  # [kv_heads, group, s, head_dim]
        keys, values = (x[0][:, None].expand(-1, groups.shape[1], -1, -1) for x in (k, v))
        out = F.scaled_dot_product_attention(groups, keys, values, mask, is_causal=is_causal, scale=scale)
        return out.flatten(0, 1)[None]
    if softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=True
        )
    groups = q.view(q.shape[0], k.shape[1], -1, *q.shape[2:])  # [b, kv_heads, group, s, head_dim]
    scores = groups @ k[:, :, None].transpose(-1, -2) * scale  # [b, kv_heads, group, s, keys]
    scores = softcap * torch.tanh(scores / softcap)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()[None, None]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype)
    return (weights @ v[:, :, None]).flatten(1, 2)


def document_kernel(device_type: str, head_dim: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """Choose what attends to packed rows: one of the three functions below.

    They let tokens see those of their own document to their left. Their arguments are q `[b, h, s, head_dim]`, k and v
    `[b, kv_heads, s, head_dim]`, where the documents stand, and how many keys a query sees, its own among them (None:
    all of its document to its left); `scale` and `softcap` are those of `attend`. They return `[b, h, s, head_dim]`.
    """
    if device_type == "cpu":
        return by_document
    # `varlen_attn` (torch 2.13) has windows, groups of heads and gradients too, but no soft cap and no float32, as
    # it is flash attention. flex_attention has them all, so it is the one kernel; what it lacks are heads below 16,
    # the least that Triton multiplies, and sums in float64.
    if device_type == "cuda" and head_dim >= 16 and dtype != torch.float64:
        return by_block
    return by_mask


def by_document(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, window: int | None, **how: Any
) -> Tensor:
    """Attend to each document by itself, which is exact and computes nothing that is masked."""
    spans_left = iter(documents.spans)
    rows = []
    # Views by split and not by slices: the backward pass of each slice would fill and add a whole row's gradient.
    for of_q, of_k, of_v, lengths in zip(
        torch.split(q, 1), torch.split(k, 1), torch.split(v, 1), documents.lengths, strict=True
    ):
        parts = []
        of_documents = [torch.split(x, lengths, dim=2) for x in (of_q, of_k, of_v)]
        spans = list(itertools.islice(spans_left, len(lengths)))
        prefixes = _prefixes(spans, *of_documents[1:])
        for queries, keys, values, (*_, start, length) in zip(*of_documents, spans, strict=True):
            seen = (keys, values)
            if length:
                prefix_keys, prefix_values = prefixes[start, length]
                seen = torch.cat([prefix_keys, keys], dim=2), torch.cat([prefix_values, values], dim=2)
            mask = documents.mask_of_one(queries.shape[2], length, window, queries.device)
            parts.append(attend(queries, *seen, mask=mask, is_causal=mask is None, **how))
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows)


def _prefixes(
    spans: Sequence[tuple[int, int, int, int, int]], keys: Sequence[Tensor], values: Sequence[Tensor]
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Return keys and values of each prefix in a row, by its first column and its length.

    It is sliced once for all documents that continue it, so that their gradients are added up before the slice's.
    """
    numbers = {start: i for i, (_, start, *_) in enumerate(spans)}
    return {
        (start, length): (keys[numbers[start]][:, :, :length], values[numbers[start]][:, :, :length])
        for start, length in dict.fromkeys(span[3:] for span in spans if span[4])
    }


def by_block(q: Tensor, k: Tensor, v: Tensor, documents: Documents, window: int | None, **how: Any) -> Tensor:
    """Attend with a kernel that skips blocks of tokens; not yet run on a GPU."""
    return flex_attend(q, k, v, documents.block_mask(window), **how)


def by_mask(q: Tensor, k: Tensor, v: Tensor, documents: Documents, window: int | None, **how: Any) -> Tensor:
    """Attend under a mask of s * s pairs, which runs anywhere; not yet run on a GPU."""
    return attend(q, k, v, documents.mask(window), is_causal=False, **how)
