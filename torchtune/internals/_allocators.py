"""Settings of the allocators of torch and of the C library, which are read from the environment."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torchtune.internals._glibc import limit_heap_growth


def configure_allocators(args: Sequence[str]) -> None:
    """Set up the allocators for a run on this machine, before torch is imported; existing variables are kept.

    On a CPU, the heap's growth is limited (`limit_heap_growth`), which may restart this process. On a GPU, these limits
    would slow down the small allocations of every kernel launch. Instead, torch's allocator maps memory into segments
    that can grow, so that batches of different shapes do not fragment the GPU's memory.

    Args:
        args: The command line. Config files are not read, because this would delay the start: without an override of
            `device`, a machine with an NVIDIA or AMD driver is assumed to train on a GPU.
    """
    if not _may_use_gpu(args):
        limit_heap_growth()
    elif not os.environ.keys() & {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def _may_use_gpu(args: Sequence[str]) -> bool:
    """Return whether a run with a command line may use a GPU, judging by the command line and the drivers."""
    values = [arg.partition("=")[2] for arg in args if arg.startswith(("device=", "--device="))]
    values += [value for option, value in pairwise(args) if option == "--device"]
    device = values[-1] if values else "auto"
    return device == "cuda" or (device != "cpu" and _has_gpu_driver())


def _has_gpu_driver() -> bool:
    """Return whether a driver of NVIDIA (in WSL, only its program) or AMD is present, and GPUs are not hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    programs = (Path(folder, "nvidia-smi") for folder in os.get_exec_path())
    return any(path.exists() for path in (Path("/proc/driver/nvidia"), Path("/dev/kfd"), *programs))
