"""Kernels of attention that only CUDA has, replaced for the device of `tests.gpu.device`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.gpu.device import DeviceTensor
from tests.gpu.errors import require


def with_kernels_of_cuda(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `scaled_dot_product_attention` with conditions of CUDA's kernels, one of which must be selected."""

    def run(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **settings: Any) -> Tensor:
        if isinstance(q, DeviceTensor):
            _check_kernel(q, k, attn_mask)
        return attend(q, k, v, attn_mask, **settings)

    return run


def _check_kernel(q: Tensor, k: Tensor, mask: Tensor | None) -> None:
    is_flash = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    is_efficient = torch.backends.cuda.mem_efficient_sdp_enabled()  # type: ignore[no-untyped-call]
    is_half = q.dtype in {torch.float16, torch.bfloat16}
    require("attention", "one kernel is selected", is_flash != is_efficient)
    require("flash attention", "there is no mask", not (is_flash and mask is not None))
    require("flash attention", "the dtype is half precision", is_half or not is_flash)
    require(
        "memory-efficient attention", "heads are not grouped", q.shape[1] == k.shape[1] or not is_efficient
    )


def dense_flex_attention(
    q: Tensor, k: Tensor, v: Tensor, *, score_mod: Any, block_mask: Any, scale: float, enable_gqa: bool
) -> Tensor:
    """Compute `flex_attention` from every score, in float32."""
    assert enable_gqa
    sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    indices = [
        torch.arange(size, device=q.device).view([-1 if i == dim else 1 for i in range(4)])
        for dim, size in enumerate(sizes)
    ]
    cap = None if score_mod is None else lambda scores: score_mod(scores, *indices)
    return _attend_densely(q, k, v, block_mask.mask_mod(*indices), scale, cap)


def dense_varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    _longest: int,
    _longest_keys: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Compute torch's `varlen_attn` from every score, in float32."""
    assert enable_gqa
    assert ends is key_ends
    assert ends.dtype == torch.int32
    positions = torch.arange(len(q), device=q.device)
    documents = torch.searchsorted(ends, positions, right=True)
    distances = positions[:, None] - positions
    before, after = window_size
    visible = (documents[:, None] == documents) & (distances >= -after)
    if before >= 0:
        visible &= distances <= before
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return _attend_densely(q, k, v, visible, scale)[0].transpose(0, 1)


def _attend_densely(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    scale: float,
    cap: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    require("attention", "all tensors have the same dtype", q.dtype == k.dtype == v.dtype)
    keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1).float() for x in (k, v))
    scores = q.float() @ keys.transpose(-1, -2) * scale  # [b, h, s, keys]
    scores = scores if cap is None else cap(scores)
    return (scores.masked_fill(~visible, float("-inf")).softmax(-1) @ values).to(q.dtype)
