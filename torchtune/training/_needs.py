"""What a model takes in memory before its activations, from tensors on the meta device."""

import math
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.optim import Optimizer

from torchtune.config import Component, instantiate, parameters_of
from torchtune.training._placement import DTYPES, set_dtype


@frozen
class Needs:
    """What one rank holds; activations, logits and what the allocator keeps are not in it."""

    parameters: int
    """All of the model's, over all ranks."""
    trainable: int
    """Those that are trained."""
    ranks: int
    """Processes that share the work."""
    weights: int
    """Bytes of parameters and buffers on one rank."""
    gradients: int
    """Bytes of the trained parameters' gradients on one rank."""
    optimizer: int
    """Bytes of the optimizer's state on one rank."""

    @property
    def total(self) -> int:
        """Bytes on one rank."""
        return self.weights + self.gradients + self.optimizer


def needs(
    model: nn.Module,
    optimizer: Component[Optimizer] | None,
    *,
    dtype: str = "fp32",
    ranks: int = 1,
    enable_fsdp: bool = False,
) -> Needs:
    """Count what a model takes on each rank.

    Args:
        model: On the meta device, with its adapters and with frozen parameters marked as such; its parameters get
            the precision that a run holds them in.
        optimizer: The config's; its state is what one step of it makes. None: nothing is trained.
        dtype: A key of `DTYPES`.
        ranks: Processes that share the work.
        enable_fsdp: Each rank holds its part of every parameter (the first dimension's, rounded up), not the whole.

    Raises:
        InstantiationError: The optimizer refuses its arguments.
    """
    if optimizer is None:
        model.requires_grad_(requires_grad=False)
    set_dtype(model, DTYPES[dtype])
    every = list(model.parameters())
    trained = [p for p in every if p.requires_grad]
    parts = ranks if enable_fsdp else 1
    return Needs(
        parameters=sum(p.numel() for p in every),
        trainable=sum(p.numel() for p in trained),
        ranks=ranks,
        weights=sum(_bytes(p, parts) for p in every) + sum(_bytes(b, 1) for b in model.buffers()),
        gradients=sum(_bytes(p, parts) for p in trained),
        optimizer=0 if optimizer is None else _state_bytes(optimizer, trained, parts),
    )


def _bytes(tensor: Tensor, parts: int) -> int:
    """Return the bytes of a rank's part of a tensor: FSDP2 splits the first dimension into equal chunks."""
    if tensor.dim() == 0:
        return tensor.element_size()
    rows = math.ceil(tensor.shape[0] / parts)
    return rows * math.prod(tensor.shape[1:]) * tensor.element_size()


def _state_bytes(component: Component[Optimizer], trained: list[nn.Parameter], parts: int) -> int:
    """Return the bytes of what an optimizer keeps for its parameters after a step, on one rank."""
    if not trained:
        return 0
    # The plain kernels keep the same state, and run on the meta device.
    plain: dict[str, Any] = {n: False for n in ("fused", "foreach") if n in parameters_of(component.func)}
    optimizer = instantiate(component, trained, **plain)
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    finally:
        for parameter in trained:
            parameter.grad = None
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return sum(_bytes(tensor, parts) for tensor in tensors)
