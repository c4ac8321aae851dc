"""Start and end a run on each of its ranks."""

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

from torchtune.config.model import differences, drop_paths, frozen_tree
from torchtune.distributed import World, join_ranks, pick_device
from torchtune.runs import Reserve, RunFolder, is_out_of_memory, settings_of
from torchtune.training._run_memory import out_of_memory_error

UNCOMPARED = frozenset({"seed", "output_dir", "metric_logger", "loading.token_cache"})
"""Fields that may differ between ranks: rank 0's value is used, or each node uses its own value."""


@contextmanager
def start(cfg: object) -> Iterator[World]:
    """Start a run on this rank and yield its `World`; at the end, destroy the process group.

    If torchrun's environment variables are set (WORLD_SIZE), the process joins the process group, with gloo for
    tensors on the CPU and NCCL for tensors on GPUs. The random generators of Python, numpy and torch are seeded with
    `seed + data_rank`, so that dropout differs between ranks; draws that must agree on all ranks use `World.seed`.

    A run with an `output_dir` locks that folder.

    Raises:
        ValueError: The device is not available, another process has locked the folder, or the ranks' configs differ.
        OutOfMemoryError: Memory ran out; the message names settings that would reduce memory.
    """
    settings = settings_of(cfg)
    device = pick_device(settings.device or "auto")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    must_join = size > 1 and not dist.is_initialized()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if must_join and missing:
        raise ValueError(
            f"WORLD_SIZE={size} is set in the environment but {missing[0]} is not: unset WORLD_SIZE, or start the ranks"
            f" with `tune --nproc_per_node {size}`"
        )
    if must_join:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        join_ranks(backend, int(os.environ["RANK"]), size)
    reserve = Reserve()
    try:
        rank = dist.get_rank() if size > 1 else 0
        seed = _broadcast_seed(settings.seed, size)
        _seed_everything(seed + rank)
        world = World(rank=rank, size=size, data_rank=rank, data_size=size, device=device, seed=seed)
        _check_configs_match(cfg, world)
        with _lock(settings.output_dir if world.is_main else None):
            _record_ranks(settings.output_dir, world)
            yield world
            world.barrier()  # a rank that exits early closes connections that other ranks still use
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reserve.release()
        raise out_of_memory_error(error, cfg, size) from error
    finally:
        reserve.release()
        if dist.is_initialized() and (must_join or size == 1):
            dist.destroy_process_group()


def _check_configs_match(cfg: object, world: World) -> None:
    """Raise ValueError if the configs of the ranks differ; the ranks might otherwise wait for each other forever."""
    if world.size == 1 or not has(type(cfg)):
        return
    trees = world.gather(drop_paths(frozen_tree(cfg), UNCOMPARED))
    for rank, tree in enumerate(trees):
        changed = differences(trees[0], tree)
        if changed:
            path, left, right = changed[0]
            raise ValueError(
                f"the configs of ranks 0 and {rank} differ: {path} is {left!r} on rank 0 and {right!r} on rank {rank}"
            )


def _record_ranks(folder: str | None, world: World) -> None:
    """Record the number of ranks and their hosts."""
    hosts = world.gather(socket.gethostname())
    if folder is not None and world.is_main:
        RunFolder(folder).update_record({"ranks": world.size, "hosts": sorted(set(hosts))})


def _lock(folder: str | None) -> AbstractContextManager[object]:
    """Return the lock of an output folder, if the folder exists."""
    if folder is not None and Path(folder).is_dir():
        return RunFolder(folder).lock("a run")
    return nullcontext()


def _broadcast_seed(seed: int | None, size: int) -> int:
    """Return rank 0's seed on all ranks: the seed in its config or, if null, a random seed."""
    seeds: list[int] = [random.SystemRandom().randrange(2**31) if seed is None else seed]
    if size > 1:
        dist.broadcast_object_list(seeds, src=0)
    return seeds[0]


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
