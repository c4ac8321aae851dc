"""Layers that compute what the plain ones do, keep less of it for the backward pass, and make fewer copies.

The plain modules are the reference: autograd decides there what is kept. Here each operation says itself what its
backward pass needs, and writes into memory that it has. Values and gradients are the same up to the order of sums;
`tests/modules/test_lean.py` compares both.

| | kept by autograd, besides parameters | kept here |
|---|---|---|
| gated feed-forward | gate, activated gate, up, their product if `down_proj` is trained | gate, up, the same product |
| linear layer with LoRA | its input, the inner product | the same, without the full-size summands |
| RMS norm of bfloat16 | its input in float32 | its input |
| rotary positions | nothing, but makes six copies of the size of queries | nothing, one copy |
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from torchtune.internals import ACTIVATION_BACKWARD, activation_backward

Recompute = Callable[[], Tensor]
"""Computes a weight matrix `[out, in]` once more, so that it need not be kept for the backward pass."""


class Lean:
    """Base of layers with a second implementation that keeps less for the backward pass than the plain one."""

    is_lean = False
    """Whether the second one is used where it applies; `lean` sets it."""

    def uses_lean(self, x: Tensor, *parameters: Tensor) -> bool:
        """Tell whether to use it for x; it casts nothing, so all dtypes must be equal and autocast off."""
        is_plain = not self.is_lean or torch.is_autocast_enabled(x.device.type)
        return not is_plain and all(parameter.dtype == x.dtype for parameter in parameters)


def lean(model: nn.Module) -> None:
    """Let a model's layers keep less and copy less, in place; modules and parameters keep their names.

    Nothing is changed if torch's `ACTIVATION_BACKWARD` is disabled.
    """
    for module in model.modules() if ACTIVATION_BACKWARD.is_enabled() else ():
        if isinstance(module, Lean):
            module.is_lean = True


class _Product(torch.autograd.Function):
    """`x W^T + b`; a W that is computed again is not kept, and gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, recompute: Recompute | None
    ) -> Tensor:
        ctx.recompute = recompute
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if recompute is None else None)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])  # [n, out]
        grad_x = grad_weight = None
        if wants_x:
            weight = weight if ctx.recompute is None else ctx.recompute()
            grad_x = (flat @ weight).view(*grad.shape[:-1], weight.shape[1])
        if wants_weight:
            grad_weight = flat.T @ x.reshape(-1, x.shape[-1])
        return grad_x, grad_weight, flat.sum(0) if wants_bias else None, None


class _Adapted(torch.autograd.Function):
    """`x W^T + b + s x A^T B^T`; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora_a: Tensor,
        lora_b: Tensor,
        scale: float,
        recompute: Recompute | None,
    ) -> Tensor:
        ctx.scale, ctx.recompute = scale, recompute
        flat = x.reshape(-1, weight.shape[1])  # [n, in]
        inner = flat @ lora_a.T  # [n, r]
        y = F.linear(flat, weight, bias).addmm_(inner, lora_b.T, alpha=scale)  # [n, out]
        ctx.save_for_backward(x, weight if recompute is None else None, lora_a, lora_b, inner)
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, lora_a, lora_b, inner = ctx.saved_tensors
        x = x.reshape(-1, x.shape[-1])  # [n, in]
        flat = grad.reshape(-1, grad.shape[-1])  # [n, out]
        grad_inner = (flat @ lora_b).mul_(ctx.scale)  # [n, r]
        grad_a = grad_inner.T @ x
        grad_b = (flat.T @ inner).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            weight = weight if ctx.recompute is None else ctx.recompute()
            grad_x = (flat @ weight).addmm_(grad_inner, lora_a)
            grad_x = grad_x.view(*grad.shape[:-1], weight.shape[1])
        return grad_x, None, None, grad_a, grad_b, None, None


class _Gated(torch.autograd.Function):
    """`act(gate) * up`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate, up)
        return activated(gate, activation).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        grad_up = activated(gate, ctx.activation).mul_(grad)
        return activation_backward(grad * up, gate, ctx.activation), grad_up, None


def activated(x: Tensor, activation: str) -> Tensor:
    """Return `silu` or `gelu_tanh` of x."""
    return F.silu(x) if activation == "silu" else F.gelu(x, approximate="tanh")


class _Normed(torch.autograd.Function):
    """`x / sqrt(mean(x^2) + eps) * (weight + offset)`, in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        own = x.to(wide)
        inverse = torch.linalg.vecdot(own, own)[..., None].div_(x.shape[-1]).add_(eps).rsqrt_()  # [..., 1]
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        normed: Tensor = (own * inverse).mul_(weight.to(wide) + offset)
        return normed.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad = grad.to(inverse.dtype)
        normed = x * inverse
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            scaled = grad * (weight.to(grad.dtype) + ctx.offset)
            along = torch.linalg.vecdot(scaled, normed)[..., None].div_(x.shape[-1])
            grad_x = scaled.addcmul_(normed, along, value=-1).mul_(inverse).to(x.dtype)
        return grad_x, grad_weight, None, None


class _Turned(torch.autograd.Function):
    """Pairs of channels turned by angles (`Rotation`); its backward pass turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turn(x.to(cos.dtype), cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1.0).to(ctx.dtype), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """Turn x `[b, h, s, head_dim]` forwards or backwards."""
    y = torch.empty_like(x)
    (left, right), (to_left, to_right) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    torch.mul(left, cos, out=to_left).addcmul_(right, sin, value=-sign)
    torch.mul(right, cos, out=to_right).addcmul_(left, sin, value=sign)
    return y


product: Callable[[Tensor, Tensor, Tensor | None, Recompute | None], Tensor] = _Product.apply
"""Compute `x W^T + b` of x, W, b and what computes W again; x is kept only if W is trained."""
adapted: Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor, float, Recompute | None], Tensor] = (
    _Adapted.apply
)
"""Compute `x W^T + b + s x A^T B^T` of x, frozen W and b, A, B, s and what computes W again.

The second summand is added in place.
"""
gated: Callable[[Tensor, Tensor, str], Tensor] = _Gated.apply
"""Compute `act(gate) * up` of gate, up and the activation's name; the activated gate is computed again backwards."""
normed: Callable[[Tensor, Tensor, float, float], Tensor] = _Normed.apply
"""Compute the RMS norm of x `[..., d]`, with weight, offset and eps; x is kept as it came, and a number a vector."""
turned: Callable[[Tensor, Tensor, Tensor], Tensor] = _Turned.apply
"""Turn queries or keys x `[b, h, s, head_dim]` by cosines and sines of angles, without copies in between."""
