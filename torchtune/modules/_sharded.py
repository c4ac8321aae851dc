"""Copy full tensors into sharded parameters, and gather sharded parameters on one rank."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Return whether a tensor is a DTensor, without importing that class; the import takes a second."""
    return hasattr(tensor, "placements")


def copy_full(parameter: Tensor, full: Tensor) -> None:
    """Copy a full value into a parameter; a sharded parameter receives its local shard, without communication."""
    with torch.no_grad():
        if is_sharded(parameter):
            parameter.to_local().copy_(_local_shard(parameter, full))
        else:
            parameter.copy_(full)


def gather_full(tensor: Tensor, rank: int, dtype: torch.dtype | None = None) -> Tensor | None:
    """Gather a full tensor on the CPU of one rank; all ranks must call this.

    The ranks of the group that shares the tensor with that rank send their shards to it; with HSDP, other groups do
    nothing. No rank other than `rank` allocates more than a cast copy of its shard.

    Args:
        tensor: A tensor, which may be sharded in its first dimension; an unsharded tensor is the same on all ranks.
        rank: The rank that receives the tensor.
        dtype: The dtype to cast to; shards are cast before they are sent. None: no cast.

    Returns:
        The full tensor on `rank`, which may share memory with `tensor`; None on other ranks.
    """
    tensor = tensor.detach()
    if is_sharded(tensor):
        gathered = _gather_shards(tensor, rank, dtype or tensor.dtype)
    else:
        gathered = tensor if _is_rank(rank) else None
    return None if gathered is None else gathered.to("cpu", dtype or tensor.dtype)


def _gather_shards(tensor: "DTensor", rank: int, dtype: torch.dtype) -> Tensor | None:
    mesh = tensor.device_mesh
    coordinates = [int(i) for i in (mesh.mesh == rank).nonzero()[0]]
    axis = _shard_axis(tensor)
    current = mesh.get_coordinate()
    assert current is not None
    if any(current[i] != coordinates[i] for i in range(mesh.ndim) if i != axis):
        return None  # another group of ranks has the same shards
    local = tensor.to_local().to(dtype).contiguous()
    if axis is None or mesh.size(axis) == 1:
        return local
    group = mesh.get_group(axis)
    if current[axis] != coordinates[axis]:
        _wait([dist.P2POp(dist.isend, _as_bytes(local), rank, group)] if local.numel() else [])
        return None
    full = torch.empty(tensor.shape, dtype=dtype, device=local.device)
    receives = []
    for source, shard in zip(
        dist.get_process_group_ranks(group), _chunks(full, mesh.size(axis)), strict=True
    ):
        if source == rank:
            shard.copy_(local)
        elif shard.numel():
            receives.append(dist.P2POp(dist.irecv, _as_bytes(shard), source, group))
    _wait(receives)
    return full


def _wait(operations: "list[dist.P2POp]") -> None:
    for work in dist.batch_isend_irecv(operations) if operations else ():
        work.wait()


def _as_bytes(tensor: Tensor) -> Tensor:
    """Return a view of a contiguous tensor as bytes, which every backend can send."""
    return tensor.view(-1).view(torch.uint8)


def _is_rank(rank: int) -> bool:
    return rank == (dist.get_rank() if dist.is_initialized() else 0)


def _shard_axis(tensor: "DTensor") -> int | None:
    """Return the axis of the device mesh over which a tensor is sharded in its first dimension, if there is one.

    Raises:
        NotImplementedError: The tensor is sharded in another way.
    """
    from torch.distributed.tensor import Replicate, Shard

    axes = [i for i, placement in enumerate(tensor.placements) if not isinstance(placement, Replicate)]
    if len(axes) > 1 or any(tensor.placements[i] != Shard(0) for i in axes):
        raise NotImplementedError(
            f"cannot gather a tensor with placements {tensor.placements}; expected Shard(0)"
        )
    return axes[0] if axes else None


def _local_shard(parameter: "DTensor", full: Tensor) -> Tensor:
    """Return the view of a full tensor that is this rank's shard of the parameter."""
    from torch.distributed.tensor import Shard

    coordinates = parameter.device_mesh.get_coordinate()
    assert coordinates is not None
    for axis, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard):
            chunks = list(_chunks(full, parameter.device_mesh.size(axis), placement.dim))
            full = chunks[coordinates[axis]]
    return full


def _chunks(full: Tensor, n_ranks: int, dim: int = 0) -> Iterator[Tensor]:
    """Yield each rank's part of a full tensor.

    Shard is defined by torch.chunk; ranks beyond the last chunk have an empty shard.
    """
    chunks = full.chunk(n_ranks, dim)
    yield from chunks
    for _ in range(n_ranks - len(chunks)):
        yield full.narrow(dim, 0, 0)
