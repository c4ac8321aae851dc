"""Log-probabilities of tokens, computed in chunks so that the full logits are never stored."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchtune.modules._hardware import hardware_of
from torchtune.modules._linear_cross_entropy import (
    ChunkedHead,
    check_chunk_size,
    loss_chunk_size,
    target_positions,
)


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Compute `log_softmax(hidden @ weight.T)` at the labels, in chunks of tokens.

    The full logits `[n, v]` are never stored, not even in the backward pass; each log-probability may have a different
    upstream gradient. A frozen weight gets no gradient. `LinearCrossEntropy` returns the negative sum of these values.
    It computes the logits of a trained head only once; this function recomputes them in the backward pass.

    Args:
        hidden: `[n, d]`, the output head's inputs.
        weight: `[v, d]`, the output head.
        labels: `[n]`, the ids whose log-probabilities are computed.
        softcap: Bound c of the logits z, which become c tanh(z / c); None: no soft cap.
        temperature: Divisor of the logits, after the soft cap.
        chunk_size: Number of positions whose logits are stored at once; None: chosen according to the
            device and the vocabulary size (`loss_chunk_size`).
        ignore_index: Label of ignored positions; None: no position is ignored. If a label is set, each call copies
            the number of other positions from the GPU, which is slower.

    Returns:
        `[n]`, in nats, float32 or wider; 0 at ignored positions.

    Raises:
        ValueError: The temperature or chunk size is not above 0, or the numbers of labels and hidden states differ.
        RuntimeError: A label is outside the vocabulary (raised on a CPU; on a GPU, a kernel's assertion fails).
    """
    log_probs, _ = _compute(
        hidden, weight, labels, softcap, temperature, chunk_size, ignore_index, with_entropies=False
    )
    return log_probs


def token_log_probs_and_entropies(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    softcap: float | None = None,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    ignore_index: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `token_log_probs`, and the entropy of each position's distribution, which has no gradient.

    Args:
        hidden: `[n, d]`; all arguments are as for `token_log_probs`.
        weight: `[v, d]`.
        labels: `[n]`.
        softcap: Bound of the logits; None: no soft cap.
        temperature: Divisor of the logits.
        chunk_size: Positions per chunk.
        ignore_index: Label of ignored positions.

    Returns:
        Log-probabilities and entropies, `[n]` each, in nats, float32 or wider; 0 at ignored positions.

    Raises:
        ValueError: As in `token_log_probs`.
    """
    return _compute(
        hidden, weight, labels, softcap, temperature, chunk_size, ignore_index, with_entropies=True
    )


def _compute(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    softcap: float | None,
    temperature: float,
    chunk_size: int | None,
    ignore_index: int | None,
    *,
    with_entropies: bool,
) -> tuple[Tensor, Tensor]:
    """Check the arguments, and compute log-probabilities and, if requested, entropies."""
    check_chunk_size(chunk_size)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    targets = target_positions(labels, ignore_index)
    chunk_size = chunk_size or loss_chunk_size(len(weight), hardware_of(hidden.device))
    needs_grad = torch.is_grad_enabled()
    result: tuple[Tensor, Tensor] = _TokenLogProbs.apply(
        hidden, weight, labels, targets, softcap, temperature, chunk_size, needs_grad, with_entropies
    )  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped.
    return result


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities and entropies of chunks of positions."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's context accepts any attribute.
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        targets: Tensor | None,
        softcap: float | None,
        temperature: float,
        chunk_size: int,
        needs_grad: bool,
        with_entropies: bool,
    ) -> tuple[Tensor, Tensor]:
        # If the head is frozen, the gradient of a position's hidden state is its upstream gradient, a scalar, times a
        # vector that is computed in this forward pass, while the logits are available. The vectors are saved instead of
        # the hidden states, which have the same size. Compared with recomputing the logits in the backward pass, both
        # passes together take 0.64 times as long ([512, 576] by [16384, 576] in float32, one thread: 0.23 s and
        # 0.36 s) and the same memory. The gradient of a trained head is a sum over positions, weighted by upstream
        # gradients, so the logits must be recomputed.
        needs_hidden_grad, needs_weight_grad = (
            needs_grad and trained for trained in ctx.needs_input_grad[:2]
        )
        ctx.saves_gradient = needs_hidden_grad and not needs_weight_grad
        head = ChunkedHead(
            hidden,
            weight,
            labels,
            softcap,
            temperature,
            needs_hidden_grad=ctx.saves_gradient,
            needs_weight_grad=False,
        )
        log_probs = hidden.new_zeros(len(labels), dtype=head.sum_dtype)
        entropies = torch.zeros_like(log_probs) if with_entropies else log_probs.new_zeros(0)
        for chunk in head.chunks(targets, chunk_size):
            softmax = head.softmax(chunk)
            log_probs[chunk] = softmax.log_probs[:, 0]
            if with_entropies:
                entropies[chunk] = softmax.entropies()[:, 0]
            head.add_gradients(chunk, softmax)
            del softmax  # frees memory before the next chunk's logits are allocated
        if ctx.saves_gradient:
            ctx.save_for_backward(head.grad_hidden)
        else:
            ctx.save_for_backward(hidden, weight, labels, targets)
        ctx.settings, ctx.weight_dtype = (softcap, temperature, chunk_size), weight.dtype
        ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        coefficients = -grad_log_probs[:, None]  # [n, 1], of negative log-probabilities
        if ctx.saves_gradient:
            (unscaled,) = ctx.saved_tensors  # [n, d]
            return torch.mul(unscaled, coefficients, out=torch.empty_like(unscaled)), *[None] * 8
        grad_hidden, grad_weight = _gradients(ctx, coefficients)
        if grad_weight is not None:
            grad_weight = grad_weight.to(ctx.weight_dtype)
        return grad_hidden, grad_weight, *[None] * 7


def _gradients(ctx: Any, coefficients: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Recompute the logits, and compute the gradients of `-(coefficients * log_probs).sum()`."""
    hidden, weight, labels, targets = ctx.saved_tensors
    softcap, temperature, chunk_size = ctx.settings
    needs_hidden_grad, needs_weight_grad = ctx.needs_input_grad[:2]
    head = ChunkedHead(
        hidden,
        weight,
        labels,
        softcap,
        temperature,
        needs_hidden_grad=needs_hidden_grad,
        needs_weight_grad=needs_weight_grad,
    )
    for chunk in head.chunks(targets, chunk_size):
        softmax = head.softmax(chunk)
        head.add_gradients(chunk, softmax, coefficients[chunk])
        del softmax
    return head.grad_hidden, head.grad_weight
