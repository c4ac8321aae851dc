"""Attention on CUDA for packed rows, sliding windows and soft caps: torch's `flex_attention` (arXiv 2412.05496)."""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Block size in tokens, which is the kernels' default."""


def flex_attend(
    q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, *, scale: float, softcap: float | None = None
) -> Tensor:
    """Attend with one compiled kernel, which skips fully masked blocks and stores no scores.

    This function has not been run on a GPU yet; only its forward pass has been run, on a CPU. On a GPU,
    `pytest tests/modules/test_flex_attention.py` tests both the forward and the backward pass.

    Args:
        q: `[b, h, s, head_dim]`; on CUDA, head_dim is at least 16 and the dtype is not float64.
        k: `[b, kv_heads, s, head_dim]`.
        v: `[b, kv_heads, s, head_dim]`.
        mask: Result of `block_mask` for s tokens.
        scale: Scale factor applied to the scores.
        softcap: Bound of the scores; None: no soft cap.

    Returns:
        `[b, h, s, head_dim]`.
    """
    length = q.shape[2]
    # The kernels' backward pass returned NaN for lengths that are not multiples of 128 (pytorch issue 153799).
    padding = mask.seq_lengths[0] - length
    if padding:
        q, k, v = (F.pad(x, (0, 0, 0, padding)) for x in (q, k, v))
    kernel: Callable[..., Tensor] = flex_attention
    if not torch.compiler.is_compiling():
        kernel = _compiled()
    out: Tensor = kernel(
        q,
        k,
        v,
        score_mod=None if softcap is None else _cap(softcap),
        block_mask=mask,
        scale=scale,
        enable_gqa=True,
    )
    return out[:, :, :length]


def block_mask(first: Tensor, prefixes: tuple[Tensor, Tensor] | None = None) -> BlockMask:
    """Build a block mask in which query i attends to keys `first[i]` to i, and to the keys of its prefix.

    torch's `create_block_mask` evaluates all s * s pairs. Because `first` never decreases, the first and the last query
    of a block determine the block's mask, so this function evaluates only (s / 128)^2 blocks.

    Args:
        first: `[b, s]`, non-decreasing along a row, at most the query's own column.
        prefixes: Start and end columns of the prefix keys that each query attends to, `[b, s]` each; all these keys
            are before `first`. None: no prefixes.

    Returns:
        The mask of s tokens followed by the padding of `flex_attend`; each padding token attends to itself.
    """
    b, s = first.shape
    padding = torch.arange(s, _padded(s), device=first.device)
    first = torch.cat([first, padding.expand(b, -1)], dim=1).int()  # [b, padded]
    starts = torch.arange(0, first.shape[1], BLOCK, device=first.device)  # [blocks]
    lowest, highest = first[:, ::BLOCK, None], first[:, BLOCK - 1 :: BLOCK, None]  # [b, blocks, 1]
    visible = (starts + BLOCK > lowest) & (starts <= starts[:, None])  # [b, query blocks, key blocks]
    full = (starts >= highest) & (starts < starts[:, None])  # every query of the block attends to every key
    if prefixes is not None:
        from_key, to_key = (F.pad(x, (0, len(padding))).int() for x in prefixes)  # [b, padded] each
        # Include the key blocks from the first to the last prefix key of any query in the query block; the kernel
        # evaluates every pair in them.
        lowest_key = (
            torch.where(from_key < to_key, from_key, first.shape[1]).view(b, -1, BLOCK).amin(-1)[..., None]
        )
        highest_key = to_key.view(b, -1, BLOCK).amax(-1)[..., None]  # [b, blocks, 1]
        visible |= (starts + BLOCK > lowest_key) & (starts < highest_key)

    # The window size is already part of `first`. As an int in these functions, it would be compiled in as a constant,
    # and each new size would cause a recompilation.
    def attends(b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= first[b, query]) & (key <= query)

    def attends_with_prefix(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return attends(b, h, query, key) | ((key >= from_key[b, query]) & (key < to_key[b, query]))

    mask_mod = attends if prefixes is None else attends_with_prefix
    return BlockMask.from_kv_blocks(
        *_block_lists(visible & ~full), *_block_lists(full), BLOCK_SIZE=BLOCK, mask_mod=mask_mod
    )


def _block_lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of selected key blocks of each query block, and the indices of all key blocks.

    The selected blocks come first. The shapes are `[b, 1, queries]` and `[b, 1, queries, keys]`.
    """
    indices = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], indices.int()[:, None]


def _padded(length: int) -> int:
    """Round a length up to a multiple of 128 and of an eighth of the next power of two: four lengths per doubling.

    This adds at most a quarter to lengths of 512 tokens or more.
    """
    step = max(BLOCK, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


def _cap(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, _b: Tensor, _h: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _compiled() -> Callable[..., Tensor]:
    # Compile one kernel per shape. With dynamic shapes, a second soft cap or scale in one process would become a
    # symbol, which flex_attention does not support. `_padded` limits the number of shapes. Exceeding `recompile_limit`
    # raises an exception, because the fallback would store all s * s scores.
    compiled: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]  # stubs lack recompile_limit
        flex_attention, dynamic=False, fullgraph=True, recompile_limit=128
    )
    return compiled
