"""Filling parameters: drawn or copied whole, where each rank may hold a part."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def draw(tensor: Tensor, init: Callable[..., Tensor], **settings: Any) -> None:
    """Fill a tensor in place with random numbers that are drawn whole and on the CPU.

    They depend on torch's seed alone: not on the device, nor on the number of ranks that share the tensor.

    Args:
        tensor: A parameter that has memory.
        init: A function of `torch.nn.init`.
        **settings: Its other arguments.
    """
    if is_sharded(tensor) or tensor.device.type != "cpu":
        copy_whole(tensor, init(torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"), **settings))
    else:
        init(tensor, **settings)


def copy_whole(parameter: Tensor, whole: Tensor) -> None:
    """Fill a parameter in place from its whole value; a sharded one reads its part alone, without communication."""
    with torch.no_grad():
        if is_sharded(parameter):
            parameter.to_local().copy_(_own_part(parameter, whole))
        else:
            parameter.copy_(whole)


def _own_part(parameter: "DTensor", whole: Tensor) -> Tensor:
    """Return the view of a whole tensor that this rank holds of a sharded parameter."""
    from torch.distributed.tensor import Shard

    coordinates = parameter.device_mesh.get_coordinate()
    assert coordinates is not None
    for axis, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            # torch.chunk is what Shard is documented by; ranks beyond its last chunk hold nothing.
            parts = whole.chunk(parameter.device_mesh.size(axis), placement.dim)
            at = coordinates[axis]
            whole = parts[at] if at < len(parts) else whole.narrow(placement.dim, 0, 0)
    return whole


def is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Tell whether a tensor is a DTensor without importing that class, which costs a second."""
    return hasattr(tensor, "placements")
