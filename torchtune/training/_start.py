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
from torchtune.distributed import (
    DETERMINISTIC_ENVIRONMENT,
    FailureWatch,
    World,
    deterministic_algorithms,
    join_ranks,
    pick_device,
    set_deterministic_environment,
)
from torchtune.runs import Reserve, RunFolder, RunSettings, is_out_of_memory, settings_of
from torchtune.training._resolved import record_resolved
from torchtune.training._run_memory import out_of_memory_error

UNCOMPARED = frozenset({"seed", "output_dir", "metric_logger", "loading.token_cache"})
"""Fields that may differ between ranks: rank 0's value is used, or each node uses its own value."""


@contextmanager
def start(cfg: object) -> Iterator[World]:
    """Start a run on this rank and yield its `World`; after success, destroy the process group.

    If torchrun's environment variables are set (WORLD_SIZE), the process joins the process group, with gloo for
    tensors on the CPU and NCCL for tensors on GPUs. The random generators of Python, numpy and torch are seeded with
    `seed + data_rank`, so that dropout differs between ranks; draws that must agree on all ranks use `World.seed`.

    A run with an `output_dir` locks that folder. A run with `deterministic` uses torch's deterministic algorithms until
    its end and, on CUDA, sets environment variables that remain set.

    Raises:
        ValueError: The device is not available, another process has locked the folder, the ranks' configs differ, or
            CUDA started before the environment of a deterministic run could be set.
        OutOfMemoryError: Memory ran out; the message names settings that would reduce memory.
    """
    settings = settings_of(cfg)
    device = pick_device(settings.device or "auto")
    if device.type == "cuda":
        if settings.deterministic:
            set_deterministic_environment()
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    with _process_group(device, size):
        reserve = Reserve()
        try:
            rank = dist.get_rank() if size > 1 else 0
            seed = _broadcast_seed(settings.seed, size)
            world = World(rank=rank, size=size, data_rank=rank, data_size=size, device=device, seed=seed)
            _seed_everything(seed + world.data_rank)
            _check_configs_match(cfg, world)
            algorithms = deterministic_algorithms() if settings.deterministic else nullcontext()
            with _lock(settings.output_dir if world.is_main else None), algorithms:
                _record_environment(settings, world)
                yield world
                world.barrier()  # a rank that exits early closes connections that other ranks still use
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reserve.release()
            raise out_of_memory_error(error, cfg, size) from error
        finally:
            reserve.release()


@contextmanager
def _process_group(device: torch.device, size: int) -> Iterator[None]:
    """Join the process group of the ranks, unless there is one, and destroy it at the end of a successful run.

    After an error, it is not destroyed: NCCL waits for all ranks, but a rank that has failed waits for none. The other
    ranks are notified instead.
    """
    watch = _join(device, size) if size > 1 and not dist.is_initialized() else None
    try:
        yield
    except Exception as error:
        if watch is not None:
            watch.report(error)
        raise
    else:
        if watch is not None:
            dist.destroy_process_group()
    finally:
        if watch is not None:
            watch.stop()
        if size == 1 and dist.is_initialized():
            dist.destroy_process_group()


def _join(device: torch.device, size: int) -> FailureWatch:
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={size} is set in the environment but {missing[0]} is not: unset WORLD_SIZE, or start the ranks"
            f" with `tune --nproc_per_node {size}`"
        )
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    return join_ranks(backend, int(os.environ["RANK"]), size)


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


def _record_environment(settings: RunSettings, world: World) -> None:
    """Record the ranks, their hosts and device, and whether the run is deterministic."""
    hosts = world.gather(socket.gethostname())
    if settings.output_dir is None or not world.is_main:
        return
    variables = {name: os.environ[name] for name in DETERMINISTIC_ENVIRONMENT if name in os.environ}
    values = {"ranks": world.size, "hosts": sorted(set(hosts)), "deterministic": settings.deterministic}
    RunFolder(settings.output_dir).update_record({**values, "environment": variables})
    record_resolved(settings.output_dir, world, "device", settings.device, world.device.type)


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
