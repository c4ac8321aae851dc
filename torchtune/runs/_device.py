"""Whether this machine has the device of a config, and how much memory is used; torch is imported when it is needed."""

import os
import resource
from typing import TYPE_CHECKING, Literal, get_args

from torchtune.config import FieldError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
"""What a config's `device` may be."""


def check_device(name: str, local_ranks: int = 1) -> None:
    """Refuse a device that this machine does not have.

    The run's parent calls it before anything is written; it starts no GPU context.

    Args:
        name: A config's `device`, a `Device`.
        local_ranks: Processes that the run starts on this machine; each takes one GPU on cuda.

    Raises:
        FieldError: The device is unknown, absent, or there are fewer of it than processes.
    """
    if name not in get_args(Device):
        raise FieldError(f"expected one of {', '.join(get_args(Device))}, got {name!r}", "device")
    advice = "write device=cpu or device=auto"
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise FieldError(f"this machine has no CUDA GPU that torch can use; {advice}", "device")
    if name == "mps" and not torch.backends.mps.is_available():
        raise FieldError(f"this machine has no Apple GPU that torch can use; {advice}", "device")
    kind = device_type(name)
    available = {"cuda": torch.cuda.device_count() if kind == "cuda" else 0, "mps": 1}.get(kind, local_ranks)
    if local_ranks > available:
        raise FieldError(
            f"{local_ranks} processes were asked for and this machine has {available} {kind} device(s); "
            f"start --nproc_per_node {available}, or write device=cpu",
            "device",
        )


def device_type(name: str) -> str:
    """Return the type of device that a config's `device` means on this machine."""
    if name != "auto":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def peak_memory_bytes(device: "torch.device") -> int:
    """Measure the most memory held so far: allocated on a GPU, or resident in this process on the CPU.

    Apple GPUs share the machine's memory and keep no peak, so the process counts for them too.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere: getrusage(2)
    return peak if os.uname().sysname == "Darwin" else peak * 1024
