"""The ranks of a run, and collectives across ranks."""

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from attrs import evolve, frozen
from torch import Tensor

from torchtune.runs import check_device, device_type

Item = TypeVar("Item")


@frozen(kw_only=True)
class World:
    """One rank of a run. Runs on one rank and on multiple ranks use the same code."""

    rank: int
    """The index of this rank, from 0."""
    size: int
    """Number of ranks."""
    data_rank: int
    """The index of the part of each step's rows that this rank reads, from 0."""
    data_size: int
    """Number of parts into which each step's rows are split."""
    device: torch.device
    """The device on which this rank computes."""
    seed: int
    """The run's seed, the same on all ranks."""
    group: dist.ProcessGroup | None = None
    """The process group for collectives; None: the default group."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints messages."""
        return self.rank == 0

    @property
    def sum_dtype(self) -> torch.dtype:
        """The dtype of sums over micro-batches and ranks: float64, or float32 on Apple's GPUs, which lack float64."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def tensor(self, values: Sequence[float]) -> Tensor:
        """Copy numbers from the host to this rank's device, in `sum_dtype`."""
        pinned = self.device.type == "cuda"  # a copy from unpinned memory may wait for the device
        return torch.tensor(values, dtype=self.sum_dtype, pin_memory=pinned).to(
            self.device, non_blocking=True
        )

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over the data-parallel ranks, on its device; all ranks must call this.

        With NCCL, the host does not wait for the result.
        """
        if self.data_size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def broadcast(self, values: Tensor) -> Tensor:
        """Return rank 0's tensor on every rank; all ranks must call this with tensors of the same shape and dtype."""
        if self.size > 1:
            dist.broadcast(values, src=0, group=self.group)
        return values

    def gather(self, value: Item) -> list[Item]:
        """Collect one small picklable object from every rank, in rank order; all ranks must call this."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether the flag is set on any rank; all ranks must call this."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(vote) for vote in votes)

    def with_new_group(self) -> "World":
        """Return a copy with a new process group, for collectives in another thread; all ranks must call this."""
        if self.size == 1:
            return self
        return evolve(self, group=dist.new_group(backend="gloo"))

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        if self.size > 1:
            dist.barrier(group=self.group)


def pick_device(name: str) -> torch.device:
    """Return this rank's device for a config's `device`; for cuda, the GPU whose index is the local rank.

    If the scheduler shows each rank a single GPU (`srun --gpus-per-task=1`), its index is 0. torchrun's ranks see the
    same GPUs, so a single GPU is not enough for several of them.

    Raises:
        FieldError: The device is unknown or not available.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.device_count() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        local_rank = 0
    check_device(name, local_ranks=local_rank + 1)
    kind = device_type(name)
    return torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
