"""The factor that keeps gradients within the numbers of fp16."""

from typing import Any

FIRST = 2.0**16
LEAST = 2.0**-14
"""fp16's least normal number; gradients that overflow below it are no matter of scale."""
_PATIENCE = 2000
"""Steps without an overflow after which the factor is doubled, as in torch.amp.GradScaler."""


class LossScale:
    """What losses are multiplied by before the backward pass, and gradients divided by after it.

    In fp16 small gradients become 0, so the loss is scaled up as far as they do not overflow (Micikevicius et al.
    2018, arXiv:1710.03740, section 3.2). An overflow halves the factor and its step is skipped. In other precisions
    the factor is 1.

    Args:
        dtype: The precision of computing, a key of `DTYPES`.
    """

    def __init__(self, dtype: str) -> None:
        self.factor = FIRST if dtype == "fp16" else 1.0
        self._is_dynamic = dtype == "fp16"
        self._good = 0

    def grow(self) -> None:
        """Note a step without an overflow."""
        self._good += 1
        if self._is_dynamic and self._good % _PATIENCE == 0:
            self.factor *= 2

    def shrink(self) -> bool:
        """Answer an overflow.

        Returns:
            Whether a smaller factor may help.
        """
        self._good = 0
        if not self._is_dynamic or self.factor <= LEAST:
            return False
        self.factor /= 2
        return True

    def state_dict(self) -> dict[str, Any]:
        """Give what `load_state_dict` takes."""
        return {"factor": self.factor, "good": self._good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the factor where another run left it."""
        self.factor = state["factor"]
        self._good = state["good"]
