"""What ablations of benchmarks/training.py put in a technique's place where no override of a run does."""
# ruff: noqa: SLF001 -- what is replaced has no public name, as no run replaces it

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor, nn

from torchtune import training
from torchtune.internals import OUTCOMES
from torchtune.modules import _attention, _lean, _linear


def weights_copied(model: nn.Module) -> None:
    """Hold weights in memory that would stay in their file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def attention_in_bfloat16(_: nn.Module) -> None:
    """Attend in bfloat16 where the products would be float32."""
    attend = _attention.attend_by_document  # the kernel on a CPU

    def in_bfloat16(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        return attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), *args, **options)

    _attention.document_kernel = lambda *_: in_bfloat16


class _OneDnnProduct(_lean._Product):
    """The product of layers whose weight is frozen, computed by oneDNN."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, recompute: _lean.Recompute | None
    ) -> Tensor:
        ctx.recompute = recompute
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if recompute is None else None)
        return _multiply_by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2] or ctx.recompute is not None:
            return _lean._Product.backward(ctx, grad)
        return _multiply_by_onednn(grad, ctx.saved_tensors[1].T, None), None, None, None


def _multiply_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def products_by_onednn(_: nn.Module) -> None:
    """Let oneDNN multiply by frozen weights of float32, where torch takes MKL."""
    _linear.product = _OneDnnProduct.apply  # type: ignore[attr-defined]  # imported there, for its calls


def optimizer_as_it_is(_: nn.Module) -> None:
    """Let torch's optimizers import its compiler."""
    OUTCOMES["optimizer step"] = False


def numbers_read_later(_: nn.Module) -> None:
    """Leave updates out on the device, and read the numbers of a step while the next is computed, as on a GPU."""
    training.Run.__init__ = partialmethod(training.Run.__init__, synchronous=False)  # type: ignore[assignment, method-assign]  # of this process only


REPLACEMENTS: dict[str, Callable[[nn.Module], None]] = {
    "weights copied": weights_copied,
    "attention in bfloat16": attention_in_bfloat16,
    "products by oneDNN": products_by_onednn,
    "torch's unmodified optimizer": optimizer_as_it_is,
    "numbers read a step later": numbers_read_later,
}
"""What an ablation does once the model has its weights, by its name in `ABLATIONS`."""
