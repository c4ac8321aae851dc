"""Attention on CUDA for packed rows, sliding windows and soft caps: torch's `flex_attention` (arXiv 2412.05496)."""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Tokens along a side of a block, the kernels' own default."""


def flex_attend(
    q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, *, scale: float, softcap: float | None = None
) -> Tensor:
    """Attend with one compiled kernel, which skips blocks that nobody sees and keeps no scores.

    It is not yet run on a GPU: its forward has been on a CPU, its gradient nowhere.
    `pytest tests/modules/test_flex_attention.py` compares both where there is a GPU.

    Args:
        q: `[b, h, s, head_dim]`; on CUDA head_dim is 16 at least, and the dtype not float64.
        k: `[b, kv_heads, s, head_dim]`.
        v: `[b, kv_heads, s, head_dim]`.
        mask: Of `block_mask`, for s tokens.
        scale: What products are multiplied by.
        softcap: Bound of the scores.

    Returns:
        `[b, h, s, head_dim]`.
    """
    length = q.shape[2]
    # The kernels' backward gave NaN at lengths that are no multiple of 128 (pytorch issue 153799).
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
    """Say block by block which keys queries see: query i those from `first[i]` to i, and those of its prefix.

    torch's `create_block_mask` looks at all s * s pairs. As `first` never falls, the first and the last query of
    a block say what all of them see, so this looks at (s / 128)^2 blocks only.

    Args:
        first: `[b, s]`, never falling along a row, and at most the query's own place.
        prefixes: `[b, s]` twice, the first of more keys that each query sees, and the one after the last; all are
            before `first`. None: there are none.

    Returns:
        The mask of s tokens and the padding that `flex_attend` puts behind them, each of which sees itself.
    """
    b, s = first.shape
    padding = torch.arange(s, _padded(s), device=first.device)
    first = torch.cat([first, padding.expand(b, -1)], dim=1).int()  # [b, padded]
    starts = torch.arange(0, first.shape[1], BLOCK, device=first.device)  # [blocks]
    lowest, highest = first[:, ::BLOCK, None], first[:, BLOCK - 1 :: BLOCK, None]  # [b, blocks, 1]
    seen = (starts + BLOCK > lowest) & (starts <= starts[:, None])  # [b, query blocks, key blocks]
    full = (starts >= highest) & (starts < starts[:, None])  # Every query of the block sees every key.
    if prefixes is not None:
        from_key, to_key = (F.pad(x, (0, len(padding))).int() for x in prefixes)  # [b, padded] each
        # Blocks from the first prefix key that any query of a block sees to the last: the kernel asks of each pair.
        lowest_key = (
            torch.where(from_key < to_key, from_key, first.shape[1]).view(b, -1, BLOCK).amin(-1)[..., None]
        )
        highest_key = to_key.view(b, -1, BLOCK).amax(-1)[..., None]  # [b, blocks, 1]
        seen |= (starts + BLOCK > lowest_key) & (starts < highest_key)

    # `first` holds the window too: an int here would be compiled in, and a second window compile again.
    def sees(b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= first[b, query]) & (key <= query)

    def sees_prefix_too(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(b, h, query, key) | ((key >= from_key[b, query]) & (key < to_key[b, query]))

    asked = sees if prefixes is None else sees_prefix_too
    return BlockMask.from_kv_blocks(*_listed(seen & ~full), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=asked)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Turn `[b, queries, keys]` into how many there are, `[b, 1, queries]`, and which, `[b, 1, queries, keys]`."""
    which = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], which.int()[:, None]


def _padded(length: int) -> int:
    """Round up to a multiple of 128 and of an eighth of the next power of two: four lengths for each doubling.

    From 512 tokens on it adds a quarter at most.
    """
    step = max(BLOCK, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


def _cap(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, _b: Tensor, _h: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _compiled() -> Callable[..., Tensor]:
    # A kernel for each shape. Were they dynamic, a second soft cap or scale in one process would become a symbol,
    # which flex_attention refuses. `_padded` keeps shapes few; beyond the limit it is an error, as the fallback would
    # keep all s * s scores.
    compiled: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]  # they lack the limit
        flex_attention, dynamic=False, fullgraph=True, recompile_limit=128
    )
    return compiled
