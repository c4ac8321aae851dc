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
from torchtune.modules._lean import Lean, rotated
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
        """Return the sliding window of a layer, counted from 0, in keys; None: full causal attention."""
        interval = self.full_attention_every
        is_full = interval is not None and (index + 1) % interval == 0
        return None if is_full else self.window

    def build(self, architecture: "Architecture", index: int) -> "Attention":
        """Build the attention of layer `index`, counted from 0."""
        return Attention(architecture.embed_dim, self, architecture.norm, self.window_of(index))


class Attention(Lean, nn.Module):
    """Causal self-attention with rotary positions and grouped key-value heads (arXiv 2305.13245).

    Args:
        embed_dim: Width of the residual stream, d.
        spec: Sizes and options.
        norm: Spec of the query and key norms.
        window: Size of the sliding window, in keys, including the query's own; None: full causal attention.
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
        """Map x `[b, s, d]` to `[b, s, d]`; each token attends to itself and earlier tokens."""
        rotation, mask, cache, documents = context.rotation, context.mask, context.cache, context.documents
        q = self.q_proj(x)  # [b, s, h * head_dim]
        k = self.k_proj(x)  # [b, s, kv * head_dim]
        v = self.v_proj(x)  # [b, s, kv * head_dim]
        if self.qk_norm == "whole":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = self._heads(q), self._heads(k), self._heads(v)  # [b, h or kv, s, head_dim]
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self._rotate(q, rotation), self._rotate(k, rotation)
        # The rotation returns q and k in float32. On a CPU, attention is computed in float32: in bfloat16, the forward
        # pass is as fast, but the backward pass takes 3.6 times as long (torch 2.13, 256 tokens, 9 heads).
        dtype = q.dtype if x.device.type == "cpu" else v.dtype
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        # A single token that follows cached tokens attends to all keys; with is_causal, it would attend only to the
        # first key.
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

    def _rotate(self, x: Tensor, rotation: Rotation) -> Tensor:
        if self.is_lean and rotation.rotates:
            return rotated(x, rotation.cos, rotation.sin)
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
    """Compute scaled dot-product attention; each group of query heads shares a key-value head.

    Without a soft cap, a torch kernel is used, avoiding copies of the keys where possible. With a soft cap, the scores
    are computed explicitly, because torch has no CPU kernel that supports soft caps.

    Args:
        q: `[b, h, s, head_dim]`.
        k: `[b, kv_heads, keys, head_dim]`.
        v: `[b, kv_heads, keys, head_dim]`.
        mask: `[b or 1, 1, s, keys]`, True if a query attends to a key; None: see `is_causal`.
        is_causal: Whether query i attends only to keys 0 to i.
        scale: Scale factor applied to the scores.
        softcap: Bound of the scores; None: no soft cap.

    Returns:
        `[b, h, s, head_dim]`.
    """
    if softcap is None and q.shape[0] == 1 and k.shape[1] < q.shape[1] and q.device.type == "cpu":
        # On a CPU, `enable_gqa` copies keys and values for each head of a group and keeps the copies for the backward
        # pass. If the groups are passed as the batch dimension instead, keys and values are expanded views.
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
    """Return the attention function for packed rows: `attend_by_document`, `attend_by_block` or `attend_by_mask`.

    Tokens attend to earlier tokens of their document. The arguments are q `[b, h, s, head_dim]`, k and v
    `[b, kv_heads, s, head_dim]`, the documents and the size of the sliding window in keys, including the query's own
    (None: no window); `scale` and `softcap` are as in `attend`. The result is `[b, h, s, head_dim]`.
    """
    if device_type == "cpu":
        return attend_by_document
    # `varlen_attn` (torch 2.13) supports windows, grouped heads and gradients, but neither soft caps nor float32,
    # because it is based on flash attention. flex_attention supports all of these, but neither float64 nor heads
    # narrower than 16, the smallest size that Triton can multiply.
    if device_type == "cuda" and head_dim >= 16 and dtype != torch.float64:
        return attend_by_block
    return attend_by_mask


def attend_by_document(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, window: int | None, **options: Any
) -> Tensor:
    """Compute the attention of each document separately, so that no masked scores are computed."""
    remaining_spans = iter(documents.spans)
    rows = []
    # Split rather than slice: in the backward pass, each slice would allocate and add a gradient of the full row.
    for row_q, row_k, row_v, lengths in zip(
        torch.split(q, 1), torch.split(k, 1), torch.split(v, 1), documents.lengths, strict=True
    ):
        outputs = []
        document_tensors = [torch.split(x, lengths, dim=2) for x in (row_q, row_k, row_v)]
        spans = list(itertools.islice(remaining_spans, len(lengths)))
        prefixes = _prefixes(spans, *document_tensors[1:])
        for queries, keys, values, (*_, start, length) in zip(*document_tensors, spans, strict=True):
            keys_and_values = (keys, values)
            if length:
                prefix_keys, prefix_values = prefixes[start, length]
                keys_and_values = (
                    torch.cat([prefix_keys, keys], dim=2),
                    torch.cat([prefix_values, values], dim=2),
                )
            mask = documents.document_mask(queries.shape[2], length, window, queries.device)
            outputs.append(attend(queries, *keys_and_values, mask=mask, is_causal=mask is None, **options))
        rows.append(torch.cat(outputs, dim=2))
    return torch.cat(rows)


def _prefixes(
    spans: Sequence[tuple[int, int, int, int, int]], keys: Sequence[Tensor], values: Sequence[Tensor]
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Return the keys and values of each prefix in a row, by the prefix's first column and length.

    Each prefix is sliced only once and shared by all documents that continue it, so that the documents' gradients are
    summed before the backward pass of the slice.
    """
    indices = {start: i for i, (_, start, *_) in enumerate(spans)}
    return {
        (start, length): (keys[indices[start]][:, :, :length], values[indices[start]][:, :, :length])
        for start, length in dict.fromkeys(span[3:] for span in spans if span[4])
    }


def attend_by_block(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, window: int | None, **options: Any
) -> Tensor:
    """Attend with a kernel that skips masked blocks; it has not been run on a GPU yet."""
    return flex_attend(q, k, v, documents.block_mask(window), **options)


def attend_by_mask(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, window: int | None, **options: Any
) -> Tensor:
    """Attend with a dense mask of s * s pairs, on any device; this has not been run on a GPU yet."""
    return attend(q, k, v, documents.mask(window), is_causal=False, **options)
