"""The hardware that a pass runs on, which determines its kernels, dtypes and shapes.

Code that depends on the device asks `hardware_of` instead of a tensor, so that a test can use the settings for a GPU
on a CPU (`assume_hardware`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from attrs import frozen


@frozen
class Hardware:
    """Properties of a device on which the choice of kernels, dtypes and shapes depends."""

    device_type: str
    """Type of the device, such as "cpu" or "cuda"."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of a CUDA device, such as (9, 0) for an H100; (0, 0) for other devices."""
    has_triton: bool = True
    """Whether Triton is installed, which compiles kernels for GPUs."""
    name: str = ""
    """Name of a CUDA device, such as "NVIDIA H100 80GB HBM3"; empty for other devices."""

    @property
    def is_cpu(self) -> bool:
        """Whether the device is a CPU."""
        return self.device_type == "cpu"

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a CUDA GPU."""
        return self.device_type == "cuda"


_ASSUMED: list[Hardware] = []
"""Hardware that `assume_hardware` sets; the last one applies."""
_PROBED: dict[torch.device, Hardware] = {torch.device("cpu"): Hardware("cpu")}
"""Hardware of each device used so far."""


def hardware_of(device: torch.device) -> Hardware:
    """Return the hardware of a device, or the hardware that `assume_hardware` sets."""
    return _ASSUMED[-1] if _ASSUMED else _probe(device)


@contextmanager
def assume_hardware(hardware: Hardware) -> Iterator[None]:
    """Use the settings for some hardware on any device, such as the settings for a GPU on a CPU.

    Operations that only a GPU has are replaced by operations of the device that have the same result.
    """
    _ASSUMED.append(hardware)
    try:
        yield
    finally:
        _ASSUMED.pop()


def _probe(device: torch.device) -> Hardware:
    if device not in _PROBED:
        hardware = Hardware(device.type)
        if device.type == "cuda":
            has_triton = find_spec("triton") is not None
            capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
            hardware = Hardware(device.type, capability, has_triton, name)
        _PROBED[device] = hardware
    return _PROBED[device]
