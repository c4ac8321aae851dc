"""Cross-entropy of an output head, computed in chunks so that the full logits are never stored."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from torchtune.modules._hardware import Hardware, hardware_of
from torchtune.modules._stand_ins import addmm_float32_, mm_float32


class LinearCrossEntropy(nn.Module):
    """Cross-entropy of `softmax(hidden @ weight.T)`, computed in chunks of tokens.

    The logits have `tokens x vocabulary` elements, and an ordinary backward pass stores several copies. This module's
    forward pass computes the gradients of each chunk together with its logits, and then frees the logits. Positions
    without a target cost nothing, a frozen weight gets no gradient, and sums are in float32 or wider. A batch without
    targets has a loss of 0 and zero gradients.

    Args:
        reduction: "sum" over the targets, or their "mean" (0 without targets).
        chunk_size: Number of targets whose logits are stored at once; null: chosen according to the device
            and the vocabulary size (`loss_chunk_size`).
        ignore_index: Label of positions without a target; null: every position has a target. If a label is
            set, every computation of the loss copies the number of targets from the GPU, which is slower.
    """

    def __init__(
        self,
        reduction: Literal["sum", "mean"] = "sum",
        chunk_size: int | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if reduction not in {"sum", "mean"}:
            raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
        check_chunk_size(chunk_size)
        self.reduction = reduction
        self.chunk_size = chunk_size
        self.ignore_index = ignore_index

    def forward(self, hidden: Tensor, weight: Tensor, labels: Tensor, softcap: float | None = None) -> Tensor:
        """Compute the loss.

        Args:
            hidden: `[n, d]`, the output head's inputs.
            weight: `[v, d]`, the output head.
            labels: `[n]`, each an id to predict or `ignore_index`.
            softcap: Bound c of the logits z, which become c tanh(z / c); None: no soft cap.

        Returns:
            A scalar, float32 or wider.

        Raises:
            ValueError: The numbers of labels and hidden states differ.
            RuntimeError: A label is outside the vocabulary, such as -100 without `ignore_index` (raised on a CPU; on a
                GPU, a kernel's assertion fails).
        """
        targets = target_positions(labels, self.ignore_index)
        chunk_size = self.chunk_size or loss_chunk_size(len(weight), hardware_of(hidden.device))
        needs_grad = torch.is_grad_enabled()
        total: Tensor = _ChunkedCrossEntropy.apply(
            hidden, weight, labels, targets, chunk_size, needs_grad, softcap
        )  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped.
        n_targets = len(labels if targets is None else targets)
        return total / max(n_targets, 1) if self.reduction == "mean" else total


def loss_chunk_size(vocab_size: int, hardware: Hardware) -> int:
    """Return the number of targets whose logits are stored at once.

    The head `[v, d]` is read, and its gradient is read and written, once per chunk, so larger chunks need less memory
    traffic per target. On a CPU, 128 targets are enough. On an H100, the product of 128 hidden states with Llama 3's
    bfloat16 head (d = 4096, v = 128256) takes 0.14 ms at the peak of 989e12 FLOP/s, but reading that head, 1.05 GB,
    takes 0.31 ms at 3.35 TB/s, and reading and writing its float32 gradient, 4.2 GB, takes 1.25 ms. The product of
    2,048 hidden states takes 2.2 ms. On a GPU, the chunk size is therefore the largest multiple of 128, the tile size
    of matrix products, for which the float32 logits fit into 1 GiB: 2,048 with Llama 3's head. These times are computed
    from published peaks, not measured.

    Args:
        vocab_size: Number of rows of the head, v.
        hardware: The hardware that computes the loss.

    Returns:
        A multiple of 128, at least 128.
    """
    if hardware.is_cpu:
        return _CHUNK_MULTIPLE
    n_targets = _CHUNK_BYTES // (4 * vocab_size)
    return max(n_targets // _CHUNK_MULTIPLE, 1) * _CHUNK_MULTIPLE


_CHUNK_BYTES = 2**30
_CHUNK_MULTIPLE = 128


def check_chunk_size(chunk_size: int | None) -> None:
    """Check a `chunk_size` argument.

    Raises:
        ValueError: It is not above 0.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be above 0, got {chunk_size}")


def target_positions(labels: Tensor, ignore_index: int | None) -> Tensor | None:
    """Return the positions `[t]` whose label is not `ignore_index`, or None if all are targets.

    With an `ignore_index`, the number of targets is read back to the host, which waits for the GPU.
    """
    return None if ignore_index is None else (labels != ignore_index).nonzero()[:, 0]


class ChunkSoftmax(NamedTuple):
    """Softmax of an output head's logits at c positions."""

    inputs: Tensor
    """`[c, d]`, hidden states in the dtype of the products."""
    labels: Tensor
    """Label of each position, `[c, 1]`."""
    exps: Tensor
    """`[c, v]`, exp(z - max z) of the logits z."""
    exp_sums: Tensor
    """Sum of `exps` over the vocabulary, `[c, 1]`."""
    log_probs: Tensor
    """Log-probability of each label, `[c, 1]`."""
    slopes: Tensor | None
    """Derivatives of the capped logits with respect to the uncapped logits, `[c, v]`, or None without a soft cap."""
    temperature: float
    """Divisor of the (capped) logits."""

    def entropies(self) -> Tensor:
        """Return the entropy of each position's distribution, `[c, 1]`, in nats."""
        # With e = exp(z - max z) and S their sum, p = e / S, and -sum p log p = log S - sum e log e / S.
        total: Tensor = torch.special.entr(self.exps).sum(-1, keepdim=True)  # sum of -e log e, [c, 1]
        return total / self.exp_sums + self.exp_sums.log()

    def logit_gradients(self, coefficients: Tensor | float) -> Tensor:
        """Replace `exps` with the gradient of `-(coefficients * log_probs).sum()` with respect to `hidden @ weight.T`.

        Args:
            coefficients: `[c, 1]`, or one number for all positions.

        Returns:
            `[c, v]`, float32 or wider.
        """
        # The gradient of one negative log-probability is the softmax minus one at the label. Applying the coefficients
        # to the softmax's divisor, [c, 1], saves a pass over [c, v]; a coefficient of zero makes the divisor infinite
        # and the gradient zero.
        scales = coefficients / self.temperature
        grad = self.exps.div_(self.exp_sums / scales)
        grad.scatter_add_(-1, self.labels, torch.ones_like(self.exp_sums) * -scales)
        return grad if self.slopes is None else grad.mul_(self.slopes)


class ChunkedHead:
    """Computes the softmax of an output head in chunks of positions, and the gradients of its inputs and weight.

    Logits, softmax and the weight's gradient are sums in float32 or wider. On a CPU, the factors of all products are in
    float32 as well, except that a bfloat16 head may be multiplied by probabilities rounded to bfloat16 (see below). On
    a GPU, the factors have the dtype of the hidden states: in 16 bits, logits are exact up to the rounding of float32
    sums, but for both gradients the probabilities (minus one at the label) are rounded to 16 bits. The gradient of the
    hidden states is rounded to their dtype everywhere.

    Args:
        hidden: `[n, d]`, the output head's inputs.
        weight: `[v, d]`, the output head.
        labels: `[n]`, the ids to predict.
        softcap: As in `LinearCrossEntropy`.
        temperature: Divisor of the logits, after the soft cap.
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
        # On a CPU, use float32: it is more accurate, and bfloat16 products of this shape take up to 100 times as long
        # on CPUs without instructions for them (22 s for [128, v] @ [v, 576]). On a GPU, keep the dtype of the factors,
        # whose products tensor cores sum in float32.
        is_cpu = hardware_of(hidden.device).is_cpu
        self.compute_dtype = self.sum_dtype if is_cpu else hidden.dtype
        self.head = weight.to(self.compute_dtype)  # [v, d]
        # Converting bfloat16 inputs to float32 does not change their values, so products may be computed in bfloat16,
        # which is several times as fast on CPUs with bfloat16 units. The logits remain exact because sums are in
        # float32. The gradient of the hidden states becomes bfloat16 anyway, so the probabilities are rounded to
        # bfloat16 for it. The gradient of a trained head stays float32.
        is_bfloat16 = is_cpu and hidden.dtype == weight.dtype == torch.bfloat16
        self.product_precision = _bfloat16_products if is_bfloat16 else nullcontext
        self.gradient_head = weight if is_bfloat16 and _has_bfloat16_matmul() else self.head  # [v, d]
        self.grad_hidden = torch.zeros_like(hidden) if needs_hidden_grad else None
        self.grad_weight = torch.zeros_like(weight, dtype=self.sum_dtype) if needs_weight_grad else None

    def chunks(self, targets: Tensor | None, chunk_size: int) -> Iterable[slice | Tensor]:
        """Split the positions `targets` (None: all n) into chunks, each an index into tensors `[n, ...]`."""
        if targets is not None:
            return torch.split(targets, chunk_size)
        return [slice(start, start + chunk_size) for start in range(0, len(self.labels), chunk_size)]

    def softmax(self, chunk: slice | Tensor) -> ChunkSoftmax:
        """Compute the softmax of a chunk's logits."""
        x, y = self.hidden[chunk].to(self.compute_dtype), self.labels[chunk, None]  # [c, d], [c, 1]
        if self.compute_dtype == self.sum_dtype:
            with self.product_precision():
                logits = x @ self.head.T  # [c, v]
        else:
            logits = mm_float32(x, self.head.T)  # [c, v]
        slopes = None  # [c, v]
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap)
            slopes = 1 - logits.square()
            logits = self.softcap * logits
        if self.temperature != 1:
            logits.div_(self.temperature)
        # Compute softmax and log-sum-exp in the logits' memory, in half the time of separate logsumexp and exp.
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
        else:
            addmm_float32_(self.grad_weight, grad.T, softmax.inputs)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies over target positions; the forward pass computes both gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's context accepts any attribute.
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
            del softmax  # frees memory before the next chunk's logits are allocated
        ctx.save_for_backward(head.grad_hidden, head.grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        # Scale in place to save a copy. Autograd raises in a second backward pass, because a saved tensor has changed.
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(grad_total)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad_total).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


@cache
def _has_bfloat16_matmul() -> bool:
    """Return whether bfloat16 products are worthwhile: with AMX they take half the time of `_bfloat16_products`."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Make a CPU compute float32 products with factors rounded to bfloat16 and sums in float32."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # missing in the stubs
    previous = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = previous
