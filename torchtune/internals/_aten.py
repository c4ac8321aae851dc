"""Undocumented torch operators that compute the backward passes of activation functions."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from torchtune.internals._probed_feature import ProbedFeature


def activation_backward(grad: Tensor, x: Tensor, activation: str) -> Tensor:
    """Return the derivative of `silu` or `gelu_tanh` at x, times `grad`; all tensors have the same shape."""
    gradient: Tensor
    if activation == "silu":
        gradient = torch.ops.aten.silu_backward(grad, x)
    else:
        gradient = torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
    return gradient


def _agrees_with_autograd() -> bool:
    for activation, compute in (("silu", F.silu), ("gelu_tanh", partial(F.gelu, approximate="tanh"))):
        with torch.enable_grad():
            x = torch.linspace(-4, 4, 9, dtype=torch.float64, device="cpu").requires_grad_()
            torch.autograd.backward(compute(x).sum())  # `torch.autograd.grad` would import sympy
        computed = activation_backward(torch.ones_like(x), x.detach(), activation)
        if x.grad is None or not torch.allclose(computed, x.grad, rtol=1e-9, atol=1e-12):
            return False
    return True


ACTIVATION_BACKWARD = ProbedFeature(
    name="activation backward",
    tested_with="torch 2.13.0",
    benefit='lean layers use less memory, as measured in the line "standard layers" of '
    "python -m benchmarks.training MODEL ROWS --ablate",
    fallback="standard layers are used, as with lean_layers=false",
    probe=_agrees_with_autograd,
)
