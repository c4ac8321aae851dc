"""Start a run on each of its ranks, and end it."""

import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from attrs import has

from torchtune.config.model import differences, frozen_tree, without
from torchtune.distributed import World, join_ranks, pick_device
from torchtune.runs import Reserve, RunFolder, means_no_memory, settings_of
from torchtune.training._memory import explain

UNCOMPARED = frozenset({"seed", "output_dir", "metric_logger", "loading.token_cache"})
"""Fields in which the configs of nodes may differ: rank 0's counts, or each node uses its value."""


@contextmanager
def start(cfg: object) -> Iterator[World]:
    """Start a run on this process and yield its `World`; at the end, leave the process group.

    If torchrun set its environment variables (WORLD_SIZE), the process joins the group: gloo for tensors on the CPU,
    NCCL for those on GPUs. Python's, numpy's and torch's random numbers are seeded with `seed + data_rank`, so
    that dropout differs between ranks; draws that must agree on all ranks use `World.seed`.

    A run with an `output_dir` holds the lock of that folder.

    Raises:
        ValueError: The device is not available, another process holds the lock of the folder, or the configs of the
            ranks differ.
        OutOfMemoryError: Memory ran out; the message names settings that would take less.
    """
    settings = settings_of(cfg)
    device = pick_device(settings.device or "auto")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    joined = size > 1 and not dist.is_initialized()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if joined and missing:
        raise ValueError(
            f"WORLD_SIZE is {size} in the environment, and {missing[0]} is not set: unset it, or start the ranks by"
            f" tune --nproc_per_node {size}"
        )
    if joined:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        join_ranks(backend, int(os.environ["RANK"]), size)
    reserve = Reserve()
    try:
        rank = dist.get_rank() if size > 1 else 0
        seed = _agreed_seed(settings.seed, size)
        _seed_everything(seed + rank)
        world = World(rank=rank, size=size, data_rank=rank, data_size=size, device=device, seed=seed)
        _check_alike(cfg, world)
        with _lock(settings.output_dir if world.is_main else None):
            _record_ranks(settings.output_dir, world)
            yield world
            world.barrier()  # a rank that leaves early closes connections that others still use
    except Exception as error:
        if not means_no_memory(error):
            raise
        reserve.release()
        raise explain(error, cfg, size) from error
    finally:
        reserve.release()
        if dist.is_initialized() and (joined or size == 1):
            dist.destroy_process_group()


def _check_alike(cfg: object, world: World) -> None:
    """Reject different configs of the ranks, which would wait for each other forever."""
    if world.size == 1 or not has(type(cfg)):
        return
    trees = world.gather(without(frozen_tree(cfg), UNCOMPARED))
    for rank, tree in enumerate(trees):
        changed = differences(trees[0], tree)
        if changed:
            path, left, right = changed[0]
            raise ValueError(f"rank {rank} has another config than rank 0: {path} is {right!r}, not {left!r}")


def _record_ranks(folder: str | None, world: World) -> None:
    """Record how many ranks a run has, and on which hosts."""
    hosts = world.gather(socket.gethostname())
    if folder is not None and world.is_main:
        RunFolder(folder).update_record({"ranks": world.size, "hosts": sorted(set(hosts))})


def _lock(folder: str | None) -> AbstractContextManager[object]:
    """Return the lock of an output folder, if there is one."""
    if folder is not None and Path(folder).is_dir():
        return RunFolder(folder).lock("a run")
    return nullcontext()


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
