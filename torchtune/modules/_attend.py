"""The computation of each attention kernel."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchtune.modules._attention_kernels import Kernel
from torchtune.modules._attention_mask import AttentionMask
from torchtune.modules._documents import Documents
from torchtune.modules._flex_attention import flex_attend

_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "memory_efficient": SDPBackend.EFFICIENT_ATTENTION}


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, *, scale: float, softcap: float | None = None
) -> Tensor:
    """Compute scaled dot-product attention; each group of query heads shares a key-value head.

    Args:
        q: `[b, h, s, head_dim]`.
        k: `[b, kv_heads, keys, head_dim]`.
        v: `[b, kv_heads, keys, head_dim]`.
        mask: The keys that queries attend to, and the kernel.
        scale: Scale factor applied to the scores.
        softcap: Bound of the scores; None: no soft cap.

    Returns:
        `[b, h, s, head_dim]`.
    """
    match mask.kernel:
        case "per_document":
            assert mask.documents is not None
            return attend_per_document(q, k, v, mask.documents, mask.window, scale=scale, softcap=softcap)
        case "flex":
            assert mask.blocks is not None
            return flex_attend(q, k, v, mask.blocks, scale=scale, softcap=softcap)
        case "varlen":
            return _attend_varlen(q, k, v, mask, scale)
        case "scores":
            return attend_by_scores(
                q, k, v, mask.pairs, is_causal=mask.is_causal, scale=scale, softcap=softcap
            )
        case _:
            return _attend_by_torch(q, k, v, mask, scale)


def _attend_by_torch(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, scale: float) -> Tensor:
    """Attend with one of the kernels of `scaled_dot_product_attention`."""
    if mask.kernel == "sdpa" and q.shape[0] == 1 and k.shape[1] < q.shape[1] and q.device.type == "cpu":
        return _attend_grouped_rows(q, k, v, mask, scale)
    is_grouped = k.shape[1] != q.shape[1]
    if mask.kernel == "memory_efficient" and is_grouped:  # no grouped-query support in torch 2.13
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        is_grouped = False
    with _restriction(mask, q):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask.pairs, is_causal=mask.is_causal, scale=scale, enable_gqa=is_grouped
        )


def _restriction(mask: AttentionMask, q: Tensor) -> AbstractContextManager[None]:
    """Restrict torch to the chosen kernel, which then raises if its conditions do not hold.

    Only CUDA has these kernels; if a CPU assumes the settings of a GPU, as in tests, its own kernel computes the
    same result.
    """
    if mask.kernel in _BACKENDS and q.is_cuda:
        return sdpa_kernel(_BACKENDS[mask.kernel])
    return nullcontext()


def _attend_grouped_rows(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, scale: float) -> Tensor:
    """Attend in a single row with groups of heads as rows of a batch, so that keys and values are expanded views.

    On a CPU, `enable_gqa` copies keys and values for each head of a group and keeps the copies for the backward pass.
    """
    groups = torch.unflatten(q[0], 0, (k.shape[1], -1))  # [kv_heads, group, s, head_dim]
    keys, values = (x[0][:, None].expand(-1, groups.shape[1], -1, -1) for x in (k, v))
    out = F.scaled_dot_product_attention(
        groups, keys, values, mask.pairs, is_causal=mask.is_causal, scale=scale
    )
    return out.flatten(0, 1)[None]


def attend_by_scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """Attend by computing every score, for calls that no kernel of torch supports.

    Args:
        q: As in `attend`.
        k: As in `attend`.
        v: As in `attend`.
        mask: `[b or 1, 1, s, keys]`, True if a query attends to a key; None: see `is_causal`.
        is_causal: Whether query i attends only to keys 0 to i.
        scale: As in `attend`.
        softcap: As in `attend`.
    """
    groups = q.view(q.shape[0], k.shape[1], -1, *q.shape[2:])  # [b, kv_heads, group, s, head_dim]
    scores = groups @ k[:, :, None].transpose(-1, -2) * scale  # [b, kv_heads, group, s, keys]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()[None, None]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype)
    return (weights @ v[:, :, None]).flatten(1, 2)


def attend_per_document(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Documents,
    window: int | None,
    *,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """Attend to each document separately, so that no masked score is computed.

    Args:
        q: As in `attend`.
        k: As in `attend`, with as many keys as queries.
        v: As in `attend`, with as many keys as queries.
        documents: The documents, which cover all positions.
        window: Size of the sliding window, in keys, including the query's own; None: no window.
        scale: As in `attend`.
        softcap: As in `attend`.
    """
    kernel: Kernel = "sdpa" if softcap is None else "scores"
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
            pairs = documents.document_mask(queries.shape[2], length, window, queries.device)
            mask = AttentionMask(kernel, q.dtype, is_causal=pairs is None, pairs=pairs)
            outputs.append(attend(queries, *keys_and_values, mask, scale=scale, softcap=softcap))
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


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, scale: float) -> Tensor:
    """Attend within documents with FlashAttention-2; not yet run on a GPU."""
    from torch.nn.attention.varlen import varlen_attn

    assert mask.ends is not None
    width = q.shape[2]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # [b * s, heads, head_dim]
    window = (-1 if mask.window is None else mask.window - 1, 0)  # keys before and after the query's own
    out = varlen_attn(
        q, k, v, mask.ends, mask.ends, width, width, scale=scale, window_size=window, enable_gqa=True
    )
    assert isinstance(out, Tensor)
    return out.view(-1, width, *out.shape[1:]).transpose(1, 2)
