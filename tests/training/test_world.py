import random

import numpy as np
import pytest
import torch
from attrs import frozen

from torchtune.training import check_device, pick_device, start


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = 5


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.random(), torch.rand(()).item()


def test_one_process_is_the_whole_world() -> None:
    with start(Cfg()) as world:
        assert (world.rank, world.size, world.data_rank, world.data_size) == (0, 1, 0, 1)
        assert world.is_main
        assert world.device == torch.device("cpu")
        assert world.data_sum(3) == 3
        assert world.gather("x") == ["x"]
        world.barrier()


def test_equal_seeds_give_equal_draws_from_all_generators() -> None:
    found = []
    for seed in (5, 5, 6):
        with start(Cfg(seed=seed)):
            found.append(draws())
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[1], found[2], strict=True))


def test_null_seed_draws_one_that_the_world_tells() -> None:
    with start(Cfg(seed=None)) as world:
        found = draws()
    with start(Cfg(seed=world.seed)):
        assert draws() == found


def test_device_that_is_not_there_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA GPU that torch can use; write device=cpu or device=auto"):
        check_device("cuda")
    with pytest.raises(ValueError, match="no Apple GPU"):
        check_device("mps")
    with pytest.raises(ValueError, match="expected one of auto, cpu, cuda, mps, got 'gpu'"):
        check_device("gpu")
    assert pick_device("auto") == torch.device("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda", local_ranks=2)
    with pytest.raises(ValueError, match="4 processes were asked for and this machine has 2 cuda"):
        check_device("auto", local_ranks=4)
    check_device("cpu", local_ranks=4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda") == torch.device("cuda", 1)
