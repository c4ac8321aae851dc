"""Deterministic algorithms, with which repeating a run on the same devices gives bit-for-bit identical results."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch.utils import deterministic as torch_settings

DETERMINISTIC_ENVIRONMENT = MappingProxyType(
    {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_ALGO": "Ring",
        "NCCL_COLLNET_ENABLE": "0",
        "NCCL_NVLS_ENABLE": "0",
    }
)
"""Environment variables of CUDA's libraries.

cuBLAS is deterministic if it has workspaces of a fixed size (NVIDIA's documentation of cuBLAS, "Results
Reproducibility"). The order in which NCCL's rings sum depends only on the layout of the ranks; the sums of NVLink and
InfiniBand switches (NVLS, CollNet) have no fixed order (NVIDIA/nccl, issue 1497).
"""
_WORKSPACES = (":4096:8", ":16:8")
"""The values of CUBLAS_WORKSPACE_CONFIG that torch accepts in deterministic mode."""


def set_deterministic_environment() -> None:
    """Set `DETERMINISTIC_ENVIRONMENT` for this process; existing variables are kept.

    cuBLAS reads its variable when CUDA starts in a process, and NCCL reads its variables when ranks connect.

    Raises:
        ValueError: CUDA has already started in this process without the variable of cuBLAS, or its value is unsuitable.
    """
    name = "CUBLAS_WORKSPACE_CONFIG"
    before = os.environ.get(name)
    has_started = before is None and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if has_started or before not in (None, *_WORKSPACES):
        problem = "CUDA has started in this process without" if has_started else f"{before!r} is the value of"
        raise ValueError(
            f"deterministic: {problem} the environment variable {name}; set {name}={_WORKSPACES[0]} before Python"
            " starts"
        )
    for variable, value in DETERMINISTIC_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Use torch's deterministic algorithms in this context; an operation without one raises RuntimeError.

    Unlike torch's default in this mode, uninitialized memory is not filled: nothing reads it, and filling takes time.
    """
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch_settings.fill_uninitialized_memory  # type: ignore[attr-defined]  # a property of the module
    torch.use_deterministic_algorithms(mode=True)
    torch_settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch_settings.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
