"""Replacements for optimizations that no override can disable, for the ablations of benchmarks/training.py."""
# ruff: noqa: SLF001 -- the replaced functions are private, because only ablations replace them

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor, nn

from torchtune import training
from torchtune.internals import OUTCOMES
from torchtune.modules import _attend, _lean, _linear


def copy_weights(model: nn.Module) -> None:
    """Copy mapped weights into memory."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def use_bfloat16_attention(_: nn.Module) -> None:
    """Compute attention products in bfloat16 instead of float32."""
    attend = _attend.attend_per_document  # the kernel on a CPU

    def in_bfloat16(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        return attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), *args, **options)

    _attend.attend_per_document = in_bfloat16


class _OneDnnLinear(_lean._Linear):
    """A linear layer with a frozen weight, computed by oneDNN."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, recompute: _lean.Recompute | None
    ) -> Tensor:
        ctx.recompute = recompute
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if recompute is None else None)
        return _onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2] or ctx.recompute is not None:
            return _lean._Linear.backward(ctx, grad)
        return _onednn_linear(grad, ctx.saved_tensors[1].T, None), None, None, None


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def use_onednn_products(_: nn.Module) -> None:
    """Multiply by frozen float32 weights with oneDNN instead of MKL."""
    _linear.linear = _OneDnnLinear.apply  # type: ignore[attr-defined]  # the name that the module's functions call


def use_unmodified_optimizer(_: nn.Module) -> None:
    """Use torch's unmodified optimizers, which import torch's compiler."""
    OUTCOMES["optimizer step"] = False


def defer_metrics(_: nn.Module) -> None:
    """Read the metrics of a step while the next step is computed, and skip updates on the device, as on a GPU."""
    training.Run.__init__ = partialmethod(training.Run.__init__, synchronous=False)  # type: ignore[assignment, method-assign]  # only in this process


REPLACEMENTS: dict[str, Callable[[nn.Module], None]] = {
    "weights copied": copy_weights,
    "attention in bfloat16": use_bfloat16_attention,
    "products by oneDNN": use_onednn_products,
    "torch's unmodified optimizer": use_unmodified_optimizer,
    "metrics read one step later": defer_metrics,
}
"""Functions that are called after the model's weights are loaded, by the ablation's name in `ABLATIONS`."""
