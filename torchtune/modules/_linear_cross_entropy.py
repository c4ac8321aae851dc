"""Cross-entropy of an output head that never holds all its logits."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal, NamedTuple

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
        ignore_index: Label of a position without a target; None: every position has one. With None, nothing is read
            back from a GPU; with a label, the number of targets is, once a call.
    """

    def __init__(
        self,
        reduction: Literal["sum", "mean"] = "sum",
        chunk_size: int = 128,
        ignore_index: int | None = None,
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

        Raises:
            ValueError: There are not as many labels as hidden states.
            RuntimeError: A label is no id of the vocabulary, as -100 is not if no `ignore_index` is set (raised on a
                CPU; on a GPU a kernel's assertion fails).
        """
        targets = target_positions(labels, self.ignore_index)
        needs_grad = torch.is_grad_enabled()
        total: Tensor = _ChunkedCrossEntropy.apply(
            hidden, weight, labels, targets, self.chunk_size, needs_grad, softcap
        )  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped.
        n_targets = len(labels if targets is None else targets)
        return total / max(n_targets, 1) if self.reduction == "mean" else total


def target_positions(labels: Tensor, ignore_index: int | None) -> Tensor | None:
    """Return the positions `[t]` whose label is not `ignore_index`, or None if all are targets.

    Unless `ignore_index` is None, their number is read back to the host, which waits for the GPU.
    """
    return None if ignore_index is None else (labels != ignore_index).nonzero()[:, 0]


class ChunkSoftmax(NamedTuple):
    """The softmax of an output head's logits at c positions."""

    inputs: Tensor
    """`[c, d]`, hidden states in the precision of the products."""
    labels: Tensor
    """`[c, 1]`"""
    exps: Tensor
    """`[c, v]`, exp(z - max z) of the logits z."""
    exp_sums: Tensor
    """`[c, 1]`"""
    log_probs: Tensor
    """`[c, 1]`, at the labels."""
    slopes: Tensor | None
    """`[c, v]`, derivatives of the capped logits with respect to the plain ones; None: there is no cap."""
    temperature: float
    """What logits, capped if they are, were divided by."""

    def entropies(self) -> Tensor:
        """Return the entropy of each position's distribution, `[c, 1]`, in nats."""
        # With e = exp(z - max z) and S their sum, p = e / S, and -sum p log p = log S - sum e log e / S.
        total: Tensor = torch.special.entr(self.exps).sum(-1, keepdim=True)  # of -e log e, [c, 1]
        return total / self.exp_sums + self.exp_sums.log()

    def logit_gradients(self, coefficients: Tensor | float) -> Tensor:
        """Replace `exps` by the gradient of `-(coefficients * log_probs).sum()` with respect to `hidden @ weight.T`.

        Args:
            coefficients: `[c, 1]`, or one number for all positions.

        Returns:
            `[c, v]`, float32 or wider.
        """
        # The gradient of one negative log-probability is the softmax minus one at the label. Coefficients are applied
        # to the softmax's divisor, [c, 1] numbers, which saves a pass over [c, v]; one of zero makes the divisor
        # infinite, and the gradient zero.
        scales = coefficients / self.temperature
        grad = self.exps.div_(self.exp_sums / scales)
        grad.scatter_add_(-1, self.labels, torch.ones_like(self.exp_sums) * -scales)
        return grad if self.slopes is None else grad.mul_(self.slopes)


class ChunkedHead:
    """The softmax of an output head at a few positions at a time, and the gradients of its inputs and weight.

    Args:
        hidden: `[n, d]`, the output head's inputs.
        weight: `[v, d]`, the output head.
        labels: `[n]`, the ids to predict.
        softcap: As in `LinearCrossEntropy`.
        temperature: What logits are divided by after the cap.
        needs_hidden_grad: Whether to compute the gradient of `hidden`.
        needs_weight_grad: Whether to compute the gradient of `weight`.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        softcap: float | None,
        temperature: float = 1.0,
        *,
        needs_hidden_grad: bool,
        needs_weight_grad: bool,
    ) -> None:
        if len(hidden) != len(labels):
            raise ValueError(f"hidden has {len(hidden)} positions, but labels has {len(labels)}")
        self.hidden, self.labels = hidden, labels
        self.softcap, self.temperature = softcap, temperature
        self.sum_dtype = torch.promote_types(hidden.dtype, torch.float32)
        # On a CPU in float32 throughout: it is more exact, and bfloat16 products of this shape take up to
        # 100 times as long where the CPU has no instructions for them (22 s for [128, v] @ [v, 576]).
        self.compute_dtype = self.sum_dtype if hidden.device.type == "cpu" else hidden.dtype
        self.head = weight.to(self.compute_dtype)  # [v, d]
        # Numbers that were bfloat16 are so still, so that products may be taken in it, several times as fast where a
        # CPU has units for it. Logits are exact then, being summed in float32; of the hidden states' gradient, which
        # becomes bfloat16 anyway, the probabilities are rounded to it. A trained head's gradient stays float32.
        is_narrow = hidden.dtype == weight.dtype == torch.bfloat16 and self.compute_dtype == torch.float32
        self.product_precision = _products_of_bfloat16 if is_narrow else nullcontext
        self.gradient_head = weight if is_narrow and _has_units_for_bfloat16() else self.head  # [v, d]
        self.grad_hidden = torch.zeros_like(hidden) if needs_hidden_grad else None
        self.grad_weight = torch.zeros_like(weight, dtype=self.sum_dtype) if needs_weight_grad else None

    def chunks(self, targets: Tensor | None, chunk_size: int) -> Iterable[slice | Tensor]:
        """Split the positions `targets`, or all n if it is None, into chunks, each an index of tensors `[n, ...]`."""
        if targets is not None:
            return torch.split(targets, chunk_size)
        return [slice(start, start + chunk_size) for start in range(0, len(self.labels), chunk_size)]

    def softmax(self, chunk: slice | Tensor) -> ChunkSoftmax:
        """Compute the softmax of a chunk's logits."""
        x, y = self.hidden[chunk].to(self.compute_dtype), self.labels[chunk, None]  # [c, d], [c, 1]
        with self.product_precision():
            logits = (x @ self.head.T).to(self.sum_dtype)  # [c, v]
        slopes = None  # [c, v]
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap)
            slopes = 1 - logits.square()
            logits = self.softcap * logits
        if self.temperature != 1:
            logits.div_(self.temperature)
        # Softmax and the logarithm of its sum, in the memory of the logits: half the time of logsumexp and exp.
        largest, picked = logits.amax(-1, keepdim=True), logits.gather(-1, y)  # [c, 1] each
        exps = logits.sub_(largest).exp_()  # [c, v]
        exp_sums = exps.sum(-1, keepdim=True)  # [c, 1]
        log_probs = picked - (largest + exp_sums.log())
        return ChunkSoftmax(x, y, exps, exp_sums, log_probs, slopes, self.temperature)

    def add_gradients(
        self, chunk: slice | Tensor, softmax: ChunkSoftmax, coefficients: Tensor | float = 1.0
    ) -> None:
        """Add the gradients of `-(coefficients * softmax.log_probs).sum()`; `softmax.exps` is overwritten."""
        if self.grad_hidden is None and self.grad_weight is None:
            return
        grad = softmax.logit_gradients(coefficients).to(self.compute_dtype)  # [c, v]
        if self.grad_hidden is not None:
            with self.product_precision():
                self.grad_hidden[chunk] = (grad.to(self.gradient_head.dtype) @ self.gradient_head).to(
                    self.hidden.dtype
                )
        if self.grad_weight is None:
            return
        if self.compute_dtype == self.sum_dtype:
            self.grad_weight.addmm_(grad.T, softmax.inputs)
        else:  # addmm_ takes tensors of one dtype only.
            self.grad_weight += grad.T @ softmax.inputs


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of cross-entropies over target positions, with both gradients made on the way."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's context takes any attribute.
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        chunk_size: int,
        needs_grad: bool,
        softcap: float | None,
    ) -> Tensor:
        needs_hidden_grad, needs_weight_grad = (
            needs_grad and trained for trained in ctx.needs_input_grad[:2]
        )
        head = ChunkedHead(
            hidden,
            weight,
            labels,
            softcap,
            needs_hidden_grad=needs_hidden_grad,
            needs_weight_grad=needs_weight_grad,
        )
        total = hidden.new_zeros((), dtype=head.sum_dtype)
        for chunk in head.chunks(targets, chunk_size):
            softmax = head.softmax(chunk)
            total -= softmax.log_probs.sum()
            head.add_gradients(chunk, softmax)
            del softmax  # before memory for the next chunk's logits is allocated
        ctx.save_for_backward(head.grad_hidden, head.grad_weight)
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
