"""Operations that torch has for CUDA only, each with a stand-in of equal result for tensors on other devices.

A stand-in accepts the same dtypes as the operator that it replaces, so that tests on a CPU find a call that CUDA would
reject. Meta tensors call the operator itself, which checks the call against its schema.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def mm_float32(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two matrices of the same 16-bit dtype, with products and sums in float32.

    Args:
        a: `[n, k]`, float16 or bfloat16.
        b: `[k, m]`, in the same dtype.

    Returns:
        `[n, m]`, float32.
    """
    if _has_operators(a):
        return torch.mm(a, b, out_dtype=torch.float32)
    _check_factors(a, b)
    return a.float() @ b.float()  # The product of two 16-bit numbers is exact in float32.


def addmm_float32_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add the product of two matrices of the same 16-bit dtype to a float32 matrix, in place.

    Args:
        total: `[n, m]`, float32.
        a: `[n, k]`, float16 or bfloat16.
        b: `[k, m]`, in the same dtype.

    Returns:
        `total`.
    """
    if _has_operators(a):
        return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    _check_factors(a, b)
    if total.dtype != torch.float32:
        raise RuntimeError(f"a sum must be in float32, got {total.dtype}")
    return total.addmm_(a.float(), b.float())


STAND_INS: dict[str, Callable[..., Tensor]] = {
    "aten::mm.dtype": mm_float32,
    "aten::addmm.dtype_out": addmm_float32_,
}
"""The functions of this file, by the CUDA operator that they call."""


def _has_operators(tensor: Tensor) -> bool:
    return tensor.is_cuda or tensor.is_meta


def _check_factors(a: Tensor, b: Tensor) -> None:
    """Check dtypes as `_mm_dtype_out_cuda` and `_addmm_dtype_out_cuda` do (native/cuda/Blas.cpp on the main branch)."""
    if a.dtype != b.dtype:
        raise RuntimeError(f"factors must have the same dtype, got {a.dtype} and {b.dtype}")
    if a.dtype not in {torch.float16, torch.bfloat16}:
        raise RuntimeError(f"factors must be float16 or bfloat16, got {a.dtype}")
