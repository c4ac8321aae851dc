"""The table of attention kernels: which kernel computes which call.

torch's own choice (`scaled_dot_product_attention` without restrictions) is not used on CUDA: it may be cuDNN, which has
given wrong results for calls with few key-value heads or masks, or `math`, which stores all scores. Conditions of a
kernel cite lines of files in the wheel of torch 2.13.0, or functions of
`aten/src/ATen/native/transformers/cuda/sdp_utils.cpp` (here "sdp_utils.cpp"), which is not in the wheel and was read
on torch's main branch in 2026. The choices have not yet been verified on a GPU.
"""

from collections.abc import Callable
from typing import Literal

import torch
from attrs import define, field, frozen

from torchtune.modules._hardware import Hardware

Kernel = Literal[
    "per_document", "sdpa", "flash", "memory_efficient", "flex", "varlen", "scores", "cudnn", "math"
]
"""An attention kernel.

- `per_document`: torch's CPU kernel, called once for each document of a pack.
- `sdpa`: torch's `scaled_dot_product_attention` with its own choice of kernel, on CPUs and Apple GPUs.
- `flash`: FlashAttention-2, `SDPBackend.FLASH_ATTENTION`.
- `memory_efficient`: CUTLASS's attention, `SDPBackend.EFFICIENT_ATTENTION`; keys and values are copied for each head.
- `flex`: `flex_attention`, which Triton compiles.
- `varlen`: FlashAttention-2 for packed documents, `torch.nn.attention.varlen.varlen_attn`.
- `scores`: explicit scores, one per pair of query and key.
- `cudnn` and `math`: torch's other kernels, which are never chosen.
"""

Masking = Literal["causal", "all", "mask", "window", "documents", "prefixes"]
"""The keys that queries attend to.

- `causal`: as many queries as keys; query i attends to keys 0 to i.
- `all`: every query attends to every key.
- `mask`: a mask of pairs decides.
- `window`: like `causal`, within a sliding window.
- `documents`: packed documents, optionally with a sliding window.
- `prefixes`: packed documents, some of which continue the beginning of another document.
"""


@define(kw_only=True, eq=False)
class AttentionCall:
    """The properties of a call of attention that decide which kernels can compute it."""

    hardware: Hardware
    """The device."""
    dtype: torch.dtype
    """Dtype of queries, keys and values."""
    head_dim: int
    """Width of a head."""
    masking: Masking
    """The keys that queries attend to."""
    has_softcap: bool = False
    """Whether the scores have a soft cap."""
    needs_grad: bool = True
    """Whether gradients are recorded."""


@frozen
class Condition:
    """A condition on the calls that a kernel can compute."""

    text: str
    """The condition, as a sentence about the call."""
    source: str
    """The source of the condition: file and line or function in torch v2.13.0, or an issue."""
    holds: Callable[[AttentionCall], bool] = field(repr=False)
    """Returns whether a call satisfies the condition."""


_HALF = (torch.float16, torch.bfloat16)
_SDP = "sdp_utils.cpp: "
_CPP_H = "torch/include/ATen/native/transformers/sdp_utils_cpp.h:"
_FLEX = "torch/_inductor/kernel/flex/flex_attention.py:"


def _has_capability(lowest: tuple[int, int], highest: tuple[int, int]) -> Callable[[AttentionCall], bool]:
    return lambda call: call.hardware.is_cuda and lowest <= call.hardware.capability <= highest


def _supports_dtype(call: AttentionCall) -> bool:
    if call.dtype == torch.bfloat16:
        return call.hardware.capability >= (8, 0)
    return call.dtype in {torch.float16, torch.float32}


def _has_backward(call: AttentionCall) -> bool:
    is_limited = (8, 6) <= call.hardware.capability <= (8, 9) or call.hardware.capability >= (12, 0)
    return not (call.needs_grad and is_limited and 192 < call.head_dim <= 224)


_NO_SOFTCAP = Condition(
    "scores have no soft cap",
    "torch/nn/functional.py: scaled_dot_product_attention",
    lambda call: not call.has_softcap,
)
_FLASH = (
    Condition(
        "the GPU has compute capability 8.0 to 12.1",
        f"{_SDP}check_flash_attention_hardware_support",
        _has_capability((8, 0), (12, 1)),
    ),
    Condition(
        "the dtype is float16 or bfloat16",
        f"{_SDP}check_dtypes_flash_attention",
        lambda call: call.dtype in _HALF,
    ),
    Condition(
        "heads have at most 256 channels, a multiple of 8",
        f"{_SDP}check_head_dim_size_flash",
        lambda call: call.head_dim <= 256 and call.head_dim % 8 == 0,
    ),
    Condition(
        "heads of 193 to 224 channels are not trained on capability 8.6 to 8.9 or 12",
        f"{_SDP}check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120",
        _has_backward,
    ),
    _NO_SOFTCAP,
)

CONDITIONS: dict[Kernel, tuple[Condition, ...]] = {
    "per_document": (
        Condition("the device is a CPU", "one call per document", lambda call: call.hardware.is_cpu),
        Condition(
            "rows are packed", "one call per document", lambda call: call.masking in {"documents", "prefixes"}
        ),
    ),
    "sdpa": (
        Condition(
            "the device is not a CUDA GPU",
            "pytorch issues 181528, 193893 and 196678: torch's choice on CUDA",
            lambda call: not call.hardware.is_cuda,
        ),
        _NO_SOFTCAP,
    ),
    "flash": (
        Condition("there is no mask", f"{_CPP_H}260", lambda call: call.masking in {"causal", "all"}),
        *_FLASH,
    ),
    "varlen": (
        Condition(
            "rows are packed, and no document continues another",
            "torch/nn/attention/varlen.py:176",
            lambda call: call.masking == "documents",
        ),
        *_FLASH,
    ),
    "memory_efficient": (
        Condition(
            "the GPU has compute capability 5.0 to 12.1",
            f"{_SDP}check_mem_efficient_hardware_support",
            _has_capability((5, 0), (12, 1)),
        ),
        Condition(
            "the dtype is float32, float16 or, on GPUs of compute capability 8.0 or later, bfloat16",
            f"{_SDP}can_use_mem_efficient_attention",
            _supports_dtype,
        ),
        Condition(
            "heads have a multiple of 8 channels in 16 bits, or of 4 in float32",
            f"{_SDP}check_head_dim_size_mem_efficient",
            lambda call: call.head_dim % (8 if call.dtype in _HALF else 4) == 0,
        ),
        _NO_SOFTCAP,
    ),
    "flex": (
        Condition(
            "Triton is installed and the GPU has compute capability 7.0 or later",
            "torch/_inductor/scheduler.py:8495",
            lambda call: (
                call.hardware.is_cuda and call.hardware.capability >= (7, 0) and call.hardware.has_triton
            ),
        ),
        Condition("heads have at least 16 channels", f"{_FLEX}157", lambda call: call.head_dim >= 16),
        Condition(
            "the dtype is float32, float16 or, on GPUs of compute capability 8.0 or later, bfloat16",
            f"{_FLEX}85",
            _supports_dtype,
        ),
        Condition(
            "there are as many queries as keys",
            "compiled once for each pair of lengths, so not for growing caches",
            lambda call: call.masking not in {"all", "mask"},
        ),
    ),
    "scores": (),
    "cudnn": (
        Condition(
            "a version is known to give correct results",
            "pytorch issues 193893 (few key-value heads) and 196678 (NaN with a mask)",
            lambda _: False,
        ),
    ),
    "math": (
        Condition(
            "storing a score for each pair of query and key is acceptable",
            "pytorch issue 181528 (grouped heads in float32)",
            lambda _: False,
        ),
    ),
}
"""The conditions of each kernel, all of which must hold."""

_UNMASKED: tuple[Kernel, ...] = ("flash", "memory_efficient", "flex", "sdpa", "scores")
_MASKED_BLOCKS: tuple[Kernel, ...] = (
    "per_document",
    "flex",
    "varlen",
    "memory_efficient",
    "sdpa",
    "scores",
)

ORDER: dict[Masking, tuple[Kernel, ...]] = {
    "causal": _UNMASKED,
    "all": _UNMASKED,
    "mask": _UNMASKED,
    "window": _MASKED_BLOCKS,
    "documents": _MASKED_BLOCKS,
    "prefixes": _MASKED_BLOCKS,
}
"""The kernels for each masking, in order of preference."""


def unmet(kernel: Kernel, call: AttentionCall) -> list[Condition]:
    """Return the conditions of a kernel that a call does not satisfy."""
    return [condition for condition in CONDITIONS[kernel] if not condition.holds(call)]


def choose_kernel(call: AttentionCall) -> Kernel:
    """Return the preferred kernel among those whose conditions all hold."""
    return next(kernel for kernel in ORDER[call.masking] if not unmet(kernel, call))
