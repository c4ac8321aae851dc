"""Cross-entropy of an output head that never holds all its logits."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LinearCrossEntropy(nn.Module):
    """Cross-entropy of `softmax(hidden @ weight.T)`, computed a few tokens at a time.

    Logits take `tokens x vocabulary` numbers, several times over in a plain backward pass. Here each
    chunk's gradients are made in the forward pass, as soon as its logits are known, and the logits are
    dropped. Positions without a target cost nothing, a frozen weight gets no gradient, and sums are
    float32 at least. A batch without any target has loss 0 and gradients of zeros.

    Args:
        reduction: "sum" over the targets, or their "mean" (0 where there are none).
        chunk_size: Targets whose logits are held at once.
        ignore_index: Label of a position without a target.
    """

    def __init__(
        self,
        reduction: Literal["sum", "mean"] = "sum",
        chunk_size: int = 128,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        if reduction not in {"sum", "mean"}:
            raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be above 0, got {chunk_size}")
        self.reduction = reduction
        self.chunk_size = chunk_size
        self.ignore_index = ignore_index

    def forward(self, hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None = None) -> Tensor:
        """Compute the loss.

        Args:
            hidden: `[n, d]`, the output head's inputs.
            weight: `[v, d]`, the output head.
            labels: `[n]`, each the id to predict or `ignore_index`.
            softcap: Bound c of the logits z, which become c tanh(z / c); None: there is none.

        Returns:
            A scalar, float32 or wider.
        """
        targets = (labels != self.ignore_index).nonzero()[:, 0]  # [t]
        needs_grad = torch.is_grad_enabled()
        total: Tensor = _ChunkedCrossEntropy.apply(
            hidden, weight, labels, targets, self.chunk_size, needs_grad, softcap
        )  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped.
        return total / max(len(targets), 1) if self.reduction == "mean" else total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of cross-entropies over target positions, with both gradients made on the way."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's context takes any attribute.
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        targets: Tensor,
        chunk_size: int,
        needs_grad: bool,
        softcap: float | None,
    ) -> Tensor:
        wants_hidden, wants_weight = (needs_grad and wanted for wanted in ctx.needs_input_grad[:2])
        sums = torch.promote_types(hidden.dtype, torch.float32)
        # On a CPU in float32 throughout: it is more exact, and bfloat16 products of this shape take up to
        # 100 times as long where the CPU has no instructions for them (22 s for [128, v] @ [v, 576]).
        inner = sums if hidden.device.type == "cpu" else hidden.dtype
        head = weight.to(inner)  # [v, d]
        total = hidden.new_zeros((), dtype=sums)
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=sums) if wants_weight else None
        # Numbers that were bfloat16 are so still, so that products may be taken in it, several times as fast where a
        # CPU has units for it. Logits are exact then, being summed in float32; of the hidden states' gradient, which
        # becomes bfloat16 anyway, the probabilities are rounded to it. A trained head's gradient stays float32.
        is_narrow = hidden.dtype == weight.dtype == torch.bfloat16 and inner == torch.float32
        products = _products_of_bfloat16 if is_narrow else nullcontext
        back = weight if is_narrow and _has_units_for_bfloat16() else head  # [v, d]
        for chunk in torch.split(targets, chunk_size):
            x, y = hidden[chunk].to(inner), labels[chunk, None]  # [c, d], [c, 1]
            with products():
                logits = (x @ head.T).to(sums)  # [c, v]
            slope = None
            if softcap is not None:
                logits = torch.tanh(logits / softcap)
                slope = 1 - logits.square()  # of the capped logits by the plain ones
                logits = softcap * logits
            # Softmax and the logarithm of its sum, in the memory of the logits: half the time of logsumexp and exp.
            largest, picked = logits.amax(-1, keepdim=True), logits.gather(-1, y)  # [c, 1] each
            grad = logits.sub_(largest).exp_()  # [c, v]
            row_sum = grad.sum(-1, keepdim=True)  # [c, 1]
            total += (largest + row_sum.log() - picked).sum()
            if not (wants_hidden or wants_weight):
                continue
            # The gradient of the logits is softmax(logits) minus one at the target.
            grad = grad.div_(row_sum).scatter_add_(-1, y, -torch.ones_like(row_sum))
            grad = (grad if slope is None else grad.mul_(slope)).to(x.dtype)
            if grad_hidden is not None:
                with products():
                    grad_hidden[chunk] = (grad.to(back.dtype) @ back).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad.T, x)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place to save the memory of a copy; a second backward pass is refused by autograd,
        # which sees that what it saved was changed.
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(grad_total)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad_total).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


@cache
def _has_units_for_bfloat16() -> bool:
    """Tell whether products of bfloat16 tensors are worth it: they take half the time of what rounds within (AMX)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@contextmanager
def _products_of_bfloat16() -> Iterator[None]:
    """Let a CPU round what it multiplies to bfloat16 within, and sum in float32."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # its stubs are behind
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
