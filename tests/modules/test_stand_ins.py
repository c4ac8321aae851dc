"""Stand-ins for operators of CUDA compute the same results from the same dtypes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tolerance import bound
from torchtune.modules._stand_ins import STAND_INS, addmm_float32_, mm_float32

HALF = [torch.float16, torch.bfloat16]


def matrices(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return factors `[3, 40]` and `[40, 5]`, and a float32 sum `[3, 5]`."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 40), (40, 5), (3, 5)]
    a, b, total = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    return a.to(dtype), b.to(dtype), total


class Operators(TorchDispatchMode):
    """Records the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("dtype", HALF)
def test_products_are_sums_in_float32(dtype: torch.dtype) -> None:
    a, b, total = matrices(dtype)
    exact = a.double() @ b.double()
    allowed = bound(torch.float32, 41, float((a.double().abs() @ b.double().abs()).max()))
    product, expected_sum = mm_float32(a, b), total.double() + exact
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=allowed)
    assert addmm_float32_(total, a, b) is total
    torch.testing.assert_close(total.double(), expected_sum, rtol=0, atol=allowed)
    assert allowed < float((product - product.to(dtype)).abs().max()) / 10, "a rounded product must fail"


@pytest.mark.parametrize(
    ("a", "b", "total"),
    [
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.float32),
        (torch.float64, torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes_that_cuda_rejects_are_rejected(a: torch.dtype, b: torch.dtype, total: torch.dtype) -> None:
    x, y, z = (torch.zeros(2, 2, dtype=dtype) for dtype in (a, b, total))
    with pytest.raises(
        RuntimeError, match=r"must (have the same dtype|be float16 or bfloat16|be in float32)"
    ):
        addmm_float32_(z, x, y)
    if total == torch.float32:
        with pytest.raises(RuntimeError, match=r"must (have the same dtype|be float16 or bfloat16)"):
            mm_float32(x, y)


def test_cpus_have_none_of_the_operators_that_are_replaced() -> None:
    for name in STAND_INS:
        torch._C._dispatch_find_schema_or_throw(*name.split("."))  # raises if it does not exist
        assert not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"), f"{name} needs no stand-in"
        if torch.cuda.is_available():
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


@pytest.mark.parametrize("dtype", HALF)
def test_tensors_without_data_call_the_operators_of_cuda(dtype: torch.dtype) -> None:
    a, b, total = matrices(dtype, "meta")
    with Operators() as operators:
        assert mm_float32(a, b).dtype == torch.float32
        assert addmm_float32_(total, a, b) is total
    assert operators.names == list(STAND_INS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a GPU")
@pytest.mark.parametrize("dtype", HALF)
def test_operators_of_cuda_agree_with_their_stand_ins(dtype: torch.dtype) -> None:
    (a, b, total), on_gpu = matrices(dtype), matrices(dtype, "cuda")
    allowed = bound(torch.float32, 41, float((a.abs().double() @ b.abs().double()).max()))
    torch.testing.assert_close(mm_float32(*on_gpu[:2]).cpu(), mm_float32(a, b), rtol=0, atol=allowed)
    result = addmm_float32_(on_gpu[2], *on_gpu[:2])
    torch.testing.assert_close(result.cpu(), addmm_float32_(total, a, b), rtol=0, atol=allowed)
