"""What happens between a batch and an optimizer step: the loss, and the gradient's norm."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchtune.data import IGNORE_INDEX, Batch
from torchtune.modules import Decoder, Documents, LinearCrossEntropy, is_sharded
from torchtune.training._placement import DTYPES

StepLoss = Callable[[Decoder, Batch], Tensor]
"""The loss of a batch, summed over its target tokens, as a scalar that gradients flow from."""


def step_loss(loss: nn.Module, dtype: str) -> StepLoss:
    """Turn a loss into a function of a model and a batch that sums over target tokens.

    Only the positions that have a target reach the output head. A `LinearCrossEntropy` gets hidden states and the
    head's weight, and never holds all logits; any other loss gets (logits, labels), such as
    `torch.nn.CrossEntropyLoss`. A batch without a target has loss 0 and gradients of zeros.

    Args:
        loss: Built with `reduction="sum"`.
        dtype: The precision of computing, a key of `DTYPES`; trained parameters are held wider and cast for each
            forward pass.
    """

    def of_batch(model: Decoder, batch: Batch) -> Tensor:
        step = _Step(model, loss)
        total: Tensor = torch.func.functional_call(step, _cast(step, DTYPES[dtype]), (batch,))
        return total

    return of_batch


class _Step(nn.Module):
    """Model and loss as one module, so that the parameters of both can be cast for one call."""

    def __init__(self, model: Decoder, loss: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch) -> Tensor:
        documents = Documents(batch.spans, batch.span_table) if batch.spans else None
        hidden = self.model.hidden(batch.tokens, documents=documents)  # [b, s, d]
        is_target = batch.labels != IGNORE_INDEX  # [b, s]
        hidden, labels = hidden[is_target], batch.labels[is_target]  # [n, d], [n]
        if not isinstance(self.loss, LinearCrossEntropy):
            logits = self.model.logits(hidden)  # [n, v]
            return _called(self.loss, logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        cap = self.model.architecture.final_softcap
        total: Tensor = self.loss(hidden, self.model.head_weight, labels, cap)
        return total


def _called(loss: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    """Call a loss; one of torch's own that does not fit is the config's mistake."""
    try:
        total: Tensor = loss(logits, labels)
    except (RuntimeError, ValueError, TypeError) as error:
        if not type(loss).__module__.startswith("torch.nn") or "allocat" in str(error):
            raise
        shapes = f"logits {list(logits.shape)} with labels {list(labels.shape)}"
        reason = str(error).partition("\n")[0]
        raise ValueError(f"loss: {type(loss).__name__} takes no {shapes}: {reason}") from error
    return total


def _cast(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Cast the trained parameters that are held wider; gradients flow back to them. FSDP casts its own."""
    return {
        name: p.to(dtype)
        for name, p in module.named_parameters()
        if p.requires_grad and p.dtype != dtype and not is_sharded(p)
    }


def clip_gradients(model: nn.Module, max_norm: float | None, factor: float = 1.0) -> float:
    """Scale the gradient down to a norm if it is longer, in place.

    Args:
        model: Its gradients may be sharded; all ranks must call it then.
        max_norm: The longest norm that passes; None: only measure.
        factor: What the losses were multiplied by (`LossScale`); gradients are divided by it first.

    Returns:
        The L2 norm of the whole gradient before clipping. One that is not finite leaves the gradient as it is.
    """
    trained = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in trained if p.grad is not None]
    if factor != 1.0:
        for gradient in gradients:
            gradient.div_(factor)
    norm = nn.utils.get_total_norm(gradients)
    if is_sharded(norm):
        norm = norm.full_tensor()
    length = float(norm)
    if max_norm is not None and math.isfinite(length):
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    return length
