"""Stand-ins for third-party optimizers that accept only matrices or read gradient values."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import SGD, AdamW


class RejectsVectors(SGD):
    """An optimizer that raises RuntimeError if it is built with a vector."""

    def __init__(self, params: Iterable[Any], lr: float = 0.1) -> None:
        parameters = list(params)
        if any(p.ndim != 2 for p in parameters):
            raise RuntimeError("matrices only")
        super().__init__(parameters, lr=lr)


class FailsOnVectors(SGD):
    """An optimizer whose step raises AssertionError if a parameter is a vector."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        for group in self.param_groups:
            assert all(p.ndim == 2 for p in group["params"])


class ReadsValues(AdamW):
    """An optimizer that reads gradient values, which meta tensors do not have."""

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        assert all(float(p.grad.sum()) > 0 for group in self.param_groups for p in group["params"])
        super().step(closure)
