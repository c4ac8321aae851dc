"""A run with `deterministic` uses deterministic algorithms, and sets up CUDA's libraries before they start."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen

from recipes.full_finetune import main as full_finetune
from tests.recipes.parts import full_config, metrics
from torchtune.config import Trust, only_trusting
from torchtune.distributed import DETERMINISTIC_ENVIRONMENT, set_deterministic_environment
from torchtune.runs import RunFolder
from torchtune.training import start

NAMES = sorted(DETERMINISTIC_ENVIRONMENT)
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@frozen
class Cfg:
    deterministic: bool
    device: str = "cpu"
    seed: int = 1


def modes() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables, and restore them after the test."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def cuda_has_started(monkeypatch: pytest.MonkeyPatch, *, value: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: value)


def test_deterministic_algorithms_are_used_until_the_end_of_a_run() -> None:
    before = modes()
    run = start(Cfg(deterministic=True))
    run.__enter__()
    assert modes() == (True, False, False)
    assert not run.__exit__(KeyError, KeyError("the run failed"), None)
    assert modes() == before


def test_a_run_without_the_field_keeps_the_settings_of_the_program() -> None:
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        before = modes()
        with start(Cfg(deterministic=False)):
            assert modes() == before
        with start(Cfg(deterministic=True)):
            assert modes() == (True, False, False)
        assert modes() == before
    finally:
        torch.use_deterministic_algorithms(mode=False)


def test_the_environment_is_set_before_cuda_starts_and_keeps_the_users_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda_has_started(monkeypatch, value=False)
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    set_deterministic_environment()
    assert {name: os.environ[name] for name in NAMES} == {
        CUBLAS: ":4096:8",
        "NCCL_ALGO": "Tree",
        "NCCL_COLLNET_ENABLE": "0",
        "NCCL_NVLS_ENABLE": "0",
    }


@pytest.mark.parametrize(
    ("has_started", "value", "message"),
    [
        (True, None, rf"CUDA has started in this process without .*{CUBLAS}; set {CUBLAS}=:4096:8 before"),
        (True, ":0:0", rf"':0:0' is the value of .*; set {CUBLAS}=:4096:8 before Python starts"),
        (False, ":0:0", rf"':0:0' is the value of .*; set {CUBLAS}=:4096:8 before Python starts"),
    ],
)
def test_an_environment_that_cuda_would_not_read_is_one_clear_error(
    has_started: bool, value: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_has_started(monkeypatch, value=has_started)
    if value is not None:
        monkeypatch.setenv(CUBLAS, value)
    with pytest.raises(ValueError, match=f"^deterministic: {message}"):
        set_deterministic_environment()
    assert not {*NAMES} - {CUBLAS} & os.environ.keys()


@pytest.mark.parametrize("value", [":4096:8", ":16:8"])
def test_cuda_may_have_started_with_a_suitable_environment(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_has_started(monkeypatch, value=True)
    monkeypatch.setenv(CUBLAS, value)
    set_deterministic_environment()
    assert os.environ[CUBLAS] == value


def test_a_run_on_cuda_sets_the_environment_before_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class CudaStartedError(Exception):
        pass

    def set_device(_: object) -> None:
        raise CudaStartedError(sorted(NAMES & os.environ.keys()))

    monkeypatch.setattr("torchtune.training._start.pick_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    for deterministic in (False, True):
        with pytest.raises(CudaStartedError) as error, start(Cfg(deterministic=deterministic)):
            pass
        assert error.value.args == (NAMES if deterministic else [],)


@pytest.mark.slow
def test_a_deterministic_run_on_a_cpu_gives_the_same_bits_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_ALGO", "Tree")
    changes: dict[str, Any] = {"max_steps": 3, "checkpoints.at_epoch_ends": False}
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        for name, deterministic in (("plain", False), ("deterministic", True)):
            full_finetune(full_config(tmp_path, name, deterministic=deterministic, **changes))
            record = RunFolder(tmp_path / name).read_record()
            assert (record["deterministic"], record["environment"]) == (deterministic, {"NCCL_ALGO": "Tree"})
    assert metrics(tmp_path, "plain") == metrics(tmp_path, "deterministic")
    weights = [
        (tmp_path / name / "final/model.safetensors").read_bytes() for name in ("plain", "deterministic")
    ]
    assert weights[0] == weights[1]
