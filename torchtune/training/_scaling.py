"""Loss scaling, which keeps gradients within the range of fp16."""

from typing import Any

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
MIN_SCALE = 2.0**-14
"""The smallest normal number of fp16; gradients that overflow with this scale overflow with any scale."""
_GROWTH_INTERVAL = 2000
"""Steps without an overflow after which the factor is doubled, as in torch.amp.GradScaler."""


class LossScale:
    """The factor that multiplies losses before the backward pass and divides gradients after it.

    In fp16, small gradients underflow to 0, so the loss is scaled up as far as possible without overflow (Micikevicius
    et al. 2018, arXiv:1710.03740, section 3.2). After an overflow, the step is skipped and the factor is halved. In
    other precisions, the factor is 1. The factor stays on the device, so that the host does not wait for it.

    Args:
        dtype: The compute precision, a key of `DTYPES`.
        device: The device on which losses are computed.
    """

    def __init__(self, dtype: str, device: torch.device | str = "cpu") -> None:
        self._is_dynamic = dtype == "fp16"
        self.factor: Tensor | float = torch.tensor(INITIAL_SCALE, device=device) if self._is_dynamic else 1.0
        """With fp16, a float32 scalar on the device; otherwise the number 1, and gradients are not divided by it."""
        self._good_steps: Tensor = torch.tensor(0, device=device)

    def apply(self, loss: Tensor) -> Tensor:
        """Multiply a loss by the factor."""
        return loss * self.factor if self._is_dynamic else loss

    def on(self, device: torch.device) -> Tensor:
        """Return the factor as a scalar on a device, without synchronizing."""
        return self.factor if isinstance(self.factor, Tensor) else torch.full((), self.factor, device=device)

    def explains_overflow(self, factor: float) -> bool:
        """Return whether a factor smaller than `factor` may avoid an overflow of the gradient."""
        return self._is_dynamic and factor > MIN_SCALE

    def update(self, has_overflowed: Tensor) -> None:
        """Halve the factor after an overflow, and double it after many steps without one.

        Args:
            has_overflowed: Whether the gradient is not finite even though the loss is; a bool scalar on the factor's
                device.
        """
        if not isinstance(self.factor, Tensor):
            return
        good = torch.where(has_overflowed, 0, self._good_steps + 1)
        doubled = torch.where((good > 0) & (good % _GROWTH_INTERVAL == 0), self.factor * 2, self.factor)
        halved = torch.where(self.factor > MIN_SCALE, self.factor / 2, self.factor)
        self.factor = torch.where(has_overflowed, halved, doubled)
        self._good_steps = good

    def state_dict(self) -> dict[str, Any]:
        """Return the factor and the number of steps without an overflow."""
        return {"factor": float(self.factor), "good_steps": int(self._good_steps.item())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the factor of a saved run."""
        if isinstance(self.factor, Tensor):
            self.factor = torch.full_like(self.factor, state["factor"])
        self._good_steps = torch.full_like(self._good_steps, state["good_steps"])
