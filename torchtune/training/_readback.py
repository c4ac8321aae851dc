"""Copies from a device to the host for which the host does not wait."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Readback:
    """One asynchronous copy of some scalars to the host.

    On a GPU they go into pinned memory after what the device has still to do, and `read` waits for that copy alone;
    read a step later, it arrived long ago. On other devices the copy is synchronous.

    Args:
        values: Scalars on one device, by name.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._names = list(values)
        stacked = torch.stack([value.to(_widest(value)) for value in values.values()])
        self._event: torch.cuda.Event | None = None
        self.has_waited = False
        """Whether `read` had to wait for the device."""
        if stacked.is_cuda:
            self._numbers = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
            self._numbers.copy_(stacked, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._numbers = stacked

    def read(self) -> dict[str, float]:
        """Return the numbers by name, once they have arrived."""
        if self._event is not None:
            self.has_waited = not self._event.query()  # type: ignore[no-untyped-call]
            self._event.synchronize()
        return dict(zip(self._names, self._numbers.tolist(), strict=True))


def _widest(value: Tensor) -> torch.dtype:
    """Return the widest dtype of a value's device; Apple's GPUs have no float64."""
    return torch.float32 if value.device.type == "mps" else torch.float64
