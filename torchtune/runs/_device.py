"""Check that this machine has a config's device, and measure memory use; torch is imported only when needed."""

import os
import resource
from typing import TYPE_CHECKING, Literal, get_args

from torchtune.config import FieldError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
"""The values of a config's `device`."""


def check_device(name: str, local_ranks: int = 1) -> None:
    """Check that this machine has a device, without creating a GPU context.

    The run's parent process calls this function before anything is written.

    Args:
        name: A config's `device`, a `Device`.
        local_ranks: The number of ranks on this machine; on cuda, each rank uses one GPU.

    Raises:
        FieldError: The device is unknown or missing, or there are fewer devices than ranks.
    """
    if name not in get_args(Device):
        raise FieldError(f"expected one of {', '.join(get_args(Device))}, got {name!r}", "device")
    advice = "use device=cpu or device=auto"
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise FieldError(f"this machine has no CUDA GPU that torch can use; {advice}", "device")
    if name == "mps" and not torch.backends.mps.is_available():
        raise FieldError(f"this machine has no Apple GPU that torch can use; {advice}", "device")
    kind = device_type(name)
    available = {"cuda": torch.cuda.device_count() if kind == "cuda" else 0, "mps": 1}.get(kind, local_ranks)
    if local_ranks > available:
        raise FieldError(
            f"{local_ranks} ranks need {local_ranks} {kind} devices, but this machine has only {available}; "
            f"use --nproc_per_node {available} or device=cpu",
            "device",
        )


def device_type(name: str) -> str:
    """Return the device type that a config's `device` selects on this machine."""
    if name != "auto":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def peak_memory_bytes(device: "torch.device") -> int:
    """Return the peak memory so far: allocated on a GPU, or resident in this process on the CPU.

    Apple GPUs share the machine's memory and record no peak, so the process's resident memory is returned instead.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere: getrusage(2)
    return peak if os.uname().sysname == "Darwin" else peak * 1024
