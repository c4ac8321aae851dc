import random
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import frozen

from tests.recipes.parts import full_config
from torchtune.config.model import drop_paths, frozen_tree
from torchtune.distributed import World, pick_device
from torchtune.runs import check_device
from torchtune.training import start
from torchtune.training._start import UNCOMPARED, _check_configs_match


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = 5


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.random(), torch.rand(()).item()


def test_a_run_on_one_rank_has_a_world_of_size_1() -> None:
    with start(Cfg()) as world:
        assert (world.rank, world.size, world.data_rank, world.data_size) == (0, 1, 0, 1)
        assert world.is_main
        assert world.device == torch.device("cpu")
        assert world.gather("x") == ["x"]
        world.barrier()


def test_equal_seeds_give_equal_draws_from_all_generators() -> None:
    results = []
    for seed in (5, 5, 6):
        with start(Cfg(seed=seed)):
            results.append(draws())
    assert results[0] == results[1]
    assert all(a != b for a, b in zip(results[1], results[2], strict=True))


def test_a_null_seed_is_random_and_reported_by_the_world() -> None:
    with start(Cfg(seed=None)) as world:
        results = draws()
    with start(Cfg(seed=world.seed)):
        assert draws() == results


def test_an_unavailable_device_is_rejected_with_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA GPU that torch can use; use device=cpu or device=auto"):
        check_device("cuda")
    with pytest.raises(ValueError, match="no Apple GPU"):
        check_device("mps")
    with pytest.raises(ValueError, match="expected one of auto, cpu, cuda, mps, got 'gpu'"):
        check_device("gpu")
    assert pick_device("auto") == torch.device("cpu")


def test_more_ranks_than_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda", local_ranks=2)
    with pytest.raises(ValueError, match="4 ranks need 4 cuda devices, but this machine has only 2"):
        check_device("auto", local_ranks=4)
    check_device("cpu", local_ranks=4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda") == torch.device("cuda", 1)


def test_a_rank_that_sees_a_single_gpu_uses_it_unless_torchrun_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match="4 ranks need 4 cuda devices, but this machine has only 1"):
        pick_device("cuda")


def test_world_size_without_a_launcher_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(ValueError, match="WORLD_SIZE=2 is set in the environment but RANK is not"),
        start(Cfg(seed=1)),
    ):
        pass


def test_ranks_with_different_configs_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, other = (full_config(tmp_path, max_steps=n, output_dir=str(n), seed=n) for n in (3, 4))
    config_trees = [frozen_tree(cfg), frozen_tree(other)]
    world = World(rank=0, size=2, data_rank=0, data_size=2, device=torch.device("cpu"), seed=0)
    monkeypatch.setattr(World, "gather", lambda _, tree: [tree, drop_paths(config_trees[1], UNCOMPARED)])
    with pytest.raises(
        ValueError, match="the configs of ranks 0 and 1 differ: max_steps is 3 on rank 0 and 4 on rank 1"
    ):
        _check_configs_match(cfg, world)
    config_trees[1]["max_steps"] = 3
    _check_configs_match(cfg, world)
