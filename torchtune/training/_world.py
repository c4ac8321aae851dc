"""The processes of a run: how many there are, which one this is, and what it computes on."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

import torch
import torch.distributed as dist
from attrs import evolve, frozen, has

from torchtune.config import FieldError, differences, frozen_tree, lock

Item = TypeVar("Item")
Number = TypeVar("Number", int, float)

Device = Literal["auto", "cpu", "cuda", "mps"]
"""What a config's `device` may say; `auto` is the first that is there of cuda, mps and cpu."""


class RunConfig(Protocol):
    """What `start` reads of a config."""

    @property
    def device(self) -> str:
        """A `Device`."""

    @property
    def seed(self) -> int | None:
        """Seed of every random number of the run; None draws one."""


@frozen(kw_only=True)
class World:
    """One process among those of a run; a run of one process is no special case."""

    rank: int
    """This process's number, from 0."""
    size: int
    """Number of processes."""
    data_rank: int
    """Which part of each step's rows this process reads, from 0."""
    data_size: int
    """Into how many parts each step's rows are split."""
    device: torch.device
    """Where this process keeps its part of the model."""
    seed: int
    """The run's seed, equal on all ranks."""
    group: dist.ProcessGroup | None = None
    """What the ranks talk through; None: the default group."""

    @property
    def is_main(self) -> bool:
        """True on the one process that writes and prints."""
        return self.rank == 0

    def data_sum(self, value: Number) -> Number:
        """Add up a number, such as a count of target tokens, over the data-parallel ranks; all must call it.

        It is added in fp64, which is exact for counts below 2^53 and as good for losses as one process's sum.
        """
        if self.data_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return type(value)(total.item())

    def gather(self, value: Item) -> list[Item]:
        """Collect one small picklable object of every rank, in the order of the ranks; all must call it."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Tell of each flag whether it is set on some rank; all must call it."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(vote) for vote in votes)

    def apart(self) -> "World":
        """Return the same with a group of its own, for a thread to talk through beside this one; all must call it."""
        if self.size == 1:
            return self
        return evolve(self, group=dist.new_group(backend="gloo"))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self.group)


def check_device(name: str, local_ranks: int = 1) -> None:
    """Refuse a device that this machine does not have.

    The run's parent calls it before anything is written; it imports torch and starts no GPU context.

    Args:
        name: A config's `device`, a `Device`.
        local_ranks: Processes that the run starts on this machine; each takes one GPU on cuda.

    Raises:
        FieldError: The device is unknown, absent, or there are fewer of it than processes.
    """
    if name not in get_args(Device):
        raise FieldError(f"expected one of {', '.join(get_args(Device))}, got {name!r}", "device")
    advice = "write device=cpu or device=auto"
    if name == "cuda" and not torch.cuda.is_available():
        raise FieldError(f"this machine has no CUDA GPU that torch can use; {advice}", "device")
    if name == "mps" and not torch.backends.mps.is_available():
        raise FieldError(f"this machine has no Apple GPU that torch can use; {advice}", "device")
    kind = _kind(name)
    available = {"cuda": torch.cuda.device_count() if kind == "cuda" else 0, "mps": 1}.get(kind, local_ranks)
    if local_ranks > available:
        raise FieldError(
            f"{local_ranks} processes were asked for and this machine has {available} {kind} device(s); "
            f"start --nproc_per_node {available}, or write device=cpu",
            "device",
        )


def pick_device(name: str) -> torch.device:
    """Turn a config's `device` into this process's device; on cuda, the GPU of its local rank.

    Raises:
        FieldError: The device is unknown or absent.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    check_device(name, local_ranks=local_rank + 1)
    kind = _kind(name)
    return torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)


def _kind(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def start(cfg: RunConfig) -> Iterator[World]:
    """Begin a run on this process and yield its `World`; at the end, leave the process group.

    Where torchrun's environment is there (WORLD_SIZE), the process joins the group: gloo for tensors on the CPU,
    nccl for those on GPUs. Python's, numpy's and torch's random numbers are seeded with `seed + data_rank`, so
    that dropout differs between ranks; what must agree on all ranks takes `World.seed`.

    A run with an `output_dir` holds the lock of that folder meanwhile.

    Raises:
        ValueError: The config's device is not there, another process is at work in its folder, or the ranks were
            given different configs.
        OutOfMemoryError: Memory ran out within the run; the message says what would take less.
    """
    device = pick_device(cfg.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    joined = size > 1 and not dist.is_initialized()
    if joined and (missing := [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]):
        raise ValueError(
            f"WORLD_SIZE is {size} in the environment, and {missing[0]} is not there: unset it, or start the ranks by"
            f" tune --nproc_per_node {size}"
        )
    if joined:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        rank = dist.get_rank() if size > 1 else 0
        seed = _agreed_seed(cfg.seed, size)
        _seed_everything(seed + rank)
        world = World(rank=rank, size=size, data_rank=rank, data_size=size, device=device, seed=seed)
        _check_alike(cfg, world)
        with _locked(getattr(cfg, "output_dir", None) if world.is_main else None):
            with _explaining_memory(cfg, size):
                yield world
            world.barrier()  # a rank that leaves early takes its connections from those still at work
    finally:
        if dist.is_initialized() and (joined or size == 1):
            dist.destroy_process_group()


@contextmanager
def _explaining_memory(cfg: RunConfig, size: int) -> Iterator[None]:
    """Say what would take less where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from torchtune.training import _memory

        if not _memory.is_out_of_memory(error):
            raise
        explained = _memory.explain(error, cfg, size)
        raise explained from error


def _check_alike(cfg: object, world: World) -> None:
    """Refuse to run where nodes were given different configs, which would wait for each other in vain."""
    if world.size == 1 or not has(type(cfg)):
        return
    apart = (
        "seed",
        "output_dir",
        "metric_logger",
        "token_cache",
    )  # rank 0's is taken, or each node has its own
    trees = world.gather({key: value for key, value in frozen_tree(cfg).items() if key not in apart})
    for rank, tree in enumerate(trees):
        if changed := differences(trees[0], tree):
            path, left, right = changed[0]
            raise ValueError(
                f"rank {rank} was given another config than rank 0: {path} is {right!r}, not {left!r}"
            )


@contextmanager
def _locked(folder: object) -> Iterator[None]:
    """Hold the lock of an output folder, if there is one."""
    if not isinstance(folder, str) or not Path(folder).is_dir():
        yield
        return
    with lock(Path(folder), "a run"):
        yield


def _agreed_seed(seed: int | None, size: int) -> int:
    """Return the seed of rank 0's config, or one that it draws."""
    drawn: list[int] = [random.SystemRandom().randrange(2**31) if seed is None else seed]
    if size > 1:
        dist.broadcast_object_list(drawn, src=0)
    return drawn[0]


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
