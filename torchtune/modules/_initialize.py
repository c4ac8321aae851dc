"""Initialization of parameters, which may be sharded across ranks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from torchtune.modules._hardware import hardware_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def initialize(tensor: Tensor, init: Callable[..., Tensor], **settings: Any) -> None:
    """Fill a tensor in place with random numbers, drawn for the full tensor on the CPU.

    The numbers depend only on torch's seed, not on the device or the number of ranks.

    Args:
        tensor: A parameter that is not on the meta device.
        init: A function of `torch.nn.init`.
        **settings: Additional arguments of `init`.
    """
    if is_sharded(tensor) or not hardware_of(tensor.device).is_cpu:
        copy_full(tensor, init(torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"), **settings))
    else:
        init(tensor, **settings)


def copy_full(parameter: Tensor, full: Tensor) -> None:
    """Copy a full value into a parameter; a sharded parameter receives its local shard, without communication."""
    with torch.no_grad():
        if is_sharded(parameter):
            parameter.to_local().copy_(_local_shard(parameter, full))
        else:
            parameter.copy_(full)


def _local_shard(parameter: "DTensor", full: Tensor) -> Tensor:
    """Return the view of a full tensor that is this rank's shard of the parameter."""
    from torch.distributed.tensor import Shard

    coordinates = parameter.device_mesh.get_coordinate()
    assert coordinates is not None
    for axis, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            # Shard is defined by torch.chunk; ranks beyond the last chunk have an empty shard.
            chunks = full.chunk(parameter.device_mesh.size(axis), placement.dim)
            index = coordinates[axis]
            full = chunks[index] if index < len(chunks) else full.narrow(placement.dim, 0, 0)
    return full


def is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Return whether a tensor is a DTensor, without importing that class; the import takes a second."""
    return hasattr(tensor, "placements")
