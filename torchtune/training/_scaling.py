"""Loss scaling, which keeps gradients within the range of fp16."""

from typing import Any

import torch
from torch import Tensor

FIRST = 2.0**16
LEAST = 2.0**-14
"""The smallest normal number of fp16; gradients that overflow with a smaller scale overflow with any."""
_PATIENCE = 2000
"""Steps without an overflow after which the factor is doubled, as in torch.amp.GradScaler."""


class LossScale:
    """The factor that multiplies losses before the backward pass, and divides gradients after it.

    In fp16 small gradients become 0, so the loss is scaled up as far as gradients do not overflow (Micikevicius et al.
    2018, arXiv:1710.03740, section 3.2). An overflow halves the factor and its step is skipped. In other precisions
    the factor is 1. The factor stays on the device, so that the host does not wait for it.

    Args:
        dtype: The precision of computing, a key of `DTYPES`.
        device: The device of losses.
    """

    def __init__(self, dtype: str, device: torch.device | str = "cpu") -> None:
        self._is_dynamic = dtype == "fp16"
        self.factor: Tensor | float = torch.tensor(FIRST, device=device) if self._is_dynamic else 1.0
        """In fp16 a float32 scalar on the device; otherwise the number 1, so that no gradient is divided."""
        self._good_steps: Tensor = torch.tensor(0, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Multiply a loss by the factor."""
        return loss * self.factor if self._is_dynamic else loss

    def on(self, device: torch.device) -> Tensor:
        """Return the factor as a scalar on a device, without waiting for it."""
        return self.factor if isinstance(self.factor, Tensor) else torch.full((), self.factor, device=device)

    def explains_overflow(self, factor: float) -> bool:
        """Return whether a gradient that overflowed with a factor may fit with a smaller one."""
        return self._is_dynamic and factor > LEAST

    def update(self, has_overflowed: Tensor) -> None:
        """Halve the factor after an overflow, and double it after many steps without one.

        Args:
            has_overflowed: A bool scalar on the factor's device: the gradient is not finite while the loss is.
        """
        if not isinstance(self.factor, Tensor):
            return
        good = torch.where(has_overflowed, 0, self._good_steps + 1)
        doubled = torch.where((good > 0) & (good % _PATIENCE == 0), self.factor * 2, self.factor)
        halved = torch.where(self.factor > LEAST, self.factor / 2, self.factor)
        self.factor = torch.where(has_overflowed, halved, doubled)
        self._good_steps = good

    def state_dict(self) -> dict[str, Any]:
        """Return the factor and the steps since it changed."""
        return {"factor": float(self.factor), "good_steps": int(self._good_steps.item())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the factor of another run."""
        if isinstance(self.factor, Tensor):
            self.factor = torch.full_like(self.factor, state["factor"])
        self._good_steps = torch.full_like(self._good_steps, state["good_steps"])
