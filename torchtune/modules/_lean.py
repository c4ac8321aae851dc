"""Lean layers: the same computation as torch's modules, with fewer saved tensors and fewer copies.

In torch's modules, which are the reference, autograd decides which tensors are saved for the backward pass. In lean
layers, each operation saves only the tensors that its backward pass needs, and reuses memory in place. Values and
gradients are equal up to the order of summation; `tests/modules/test_lean.py` compares both.

| | saved by autograd, in addition to parameters | saved by lean layers |
|---|---|---|
| gated feed-forward | gate, activated gate, up, their product if `down_proj` is trained | gate, up, the same product |
| linear layer with LoRA | its input, the inner product | the same; avoids full-size temporary tensors |
| RMS norm of a bfloat16 input | its input in float32 | its input |
| rotary positions | nothing, but the queries are copied six times | nothing, and the queries are copied once |
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from torchtune.internals import ACTIVATION_BACKWARD, activation_backward

Recompute = Callable[[], Tensor]
"""Recomputes a weight matrix `[out, in]`, so that it need not be saved for the backward pass."""


class LeanLayer:
    """Base of layers that also have a lean implementation, which saves less for the backward pass."""

    is_lean = False
    """Whether the lean implementation is used where possible; set by `lean`."""

    def uses_lean_implementation(self, x: Tensor, *parameters: Tensor) -> bool:
        """Return whether to use the lean implementation for x, which requires equal dtypes and no autocast."""
        is_plain = not self.is_lean or uses_autocast(x.device)
        return not is_plain and all(parameter.dtype == x.dtype for parameter in parameters)


def uses_autocast(device: torch.device) -> bool:
    """Return whether autocast is enabled on a device; False if it has no autocast, such as the meta device."""
    # For a device without autocast, `is_autocast_enabled` raises.
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def lean(model: nn.Module) -> None:
    """Enable the lean implementation of a model's layers, in place; modules and parameters keep their names.

    This function does nothing if `ACTIVATION_BACKWARD` is disabled.
    """
    for module in model.modules() if ACTIVATION_BACKWARD.is_enabled() else ():
        if isinstance(module, LeanLayer):
            module.is_lean = True


class _Linear(torch.autograd.Function):
    """Computes `x W^T + b`. A recomputed W is not saved and gets no gradient."""

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
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])  # [n, out]
        grad_x = grad_weight = None
        if needs_x:
            weight = weight if ctx.recompute is None else ctx.recompute()
            grad_x = (flat @ weight).view(*grad.shape[:-1], weight.shape[1])
        if needs_weight:
            grad_weight = flat.T @ x.reshape(-1, x.shape[-1])
        return grad_x, grad_weight, flat.sum(0) if needs_bias else None, None


class _LoRALinear(torch.autograd.Function):
    """Computes `x W^T + b + s x A^T B^T`, with W and b frozen."""

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


class _GatedProduct(torch.autograd.Function):
    """Computes `act(gate) * up`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate, up)
        return activate(gate, activation).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        grad_up = activate(gate, ctx.activation).mul_(grad)
        return activation_backward(grad * up, gate, ctx.activation), grad_up, None


def activate(x: Tensor, activation: str) -> Tensor:
    """Return `silu` or `gelu_tanh` of x."""
    return F.silu(x) if activation == "silu" else F.gelu(x, approximate="tanh")


class _RMSNorm(torch.autograd.Function):
    """Computes `x / sqrt(mean(x^2) + eps) * (weight + offset)`, in float32 or wider."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offset: float, eps: float) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        x_wide = x.to(dtype)
        inverse = (
            torch.linalg.vecdot(x_wide, x_wide)[..., None].div_(x.shape[-1]).add_(eps).rsqrt_()
        )  # [..., 1]
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        normed: Tensor = (x_wide * inverse).mul_(weight.to(dtype) + offset)
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
            projection = torch.linalg.vecdot(scaled, normed)[..., None].div_(x.shape[-1])
            grad_x = scaled.addcmul_(normed, projection, value=-1).mul_(inverse).to(x.dtype)
        return grad_x, grad_weight, None, None


class _Rotate(torch.autograd.Function):
    """Rotates pairs of channels (`Rotation`); the backward pass rotates them back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotate_pairs(x.to(cos.dtype), cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotate_pairs(grad, cos, sin, -1.0).to(ctx.dtype), None, None


def _rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """Rotate x `[b, h, s, head_dim]` by the angles times `sign`."""
    y = torch.empty_like(x)
    (left, right), (out_left, out_right) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    torch.mul(left, cos, out=out_left).addcmul_(right, sin, value=-sign)
    torch.mul(right, cos, out=out_right).addcmul_(left, sin, value=sign)
    return y


linear: Callable[[Tensor, Tensor, Tensor | None, Recompute | None], Tensor] = _Linear.apply
"""Compute `x W^T + b` from x, W, b and a function that recomputes W; x is saved only if W is trained."""
lora_linear: Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor, float, Recompute | None], Tensor] = (
    _LoRALinear.apply
)
"""Compute `x W^T + b + s x A^T B^T` from x, frozen W and b, A, B, s and a function that recomputes W.

The low-rank update is added in place.
"""
gated_product: Callable[[Tensor, Tensor, str], Tensor] = _GatedProduct.apply
"""Compute `act(gate) * up` from gate, up and the activation's name; the backward pass recomputes the activated gate."""
rms_norm: Callable[[Tensor, Tensor, float, float], Tensor] = _RMSNorm.apply
"""Compute the RMS norm of x `[..., d]` with weight, offset and eps; saves x in its dtype and one number per vector."""
rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = _Rotate.apply
"""Rotate queries or keys x `[b, h, s, head_dim]` by cosines and sines of angles, without intermediate copies."""
