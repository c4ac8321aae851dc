"""Asynchronous copies from a device to the host."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Readback:
    """An asynchronous copy of scalars to the host.

    On a GPU, the copy into pinned memory is queued after the device's pending work, and `read` waits only for the copy.
    If called one step later, `read` usually does not wait at all. On other devices, the copy is synchronous.

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
        """Wait for the copy, and return the values by name."""
        if self._event is not None:
            self.has_waited = not self._event.query()  # type: ignore[no-untyped-call]
            self._event.synchronize()
        return dict(zip(self._names, self._numbers.tolist(), strict=True))


def _widest(value: Tensor) -> torch.dtype:
    """Return the widest dtype that a value's device supports; Apple's GPUs do not support float64."""
    return torch.float32 if value.device.type == "mps" else torch.float64
