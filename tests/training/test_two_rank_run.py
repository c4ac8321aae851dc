"""A run on two ranks, which agree on non-finite steps, signals, checkpoints and the end of the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.run_ranks import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two ranks over gloo, and return the folder with their results."""
    return run_ranks(tmp_path_factory, "two_ranks_run", 2)


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "results.pt")
    outcomes = loaded["outcomes"]
    assert outcomes[0] == outcomes[1], "both ranks must end at the same step for the same reason"
    return dict(loaded["results"])


def lines(folder: Path) -> list[dict[str, Any]]:
    timing_fields = {"tokens_per_second", "peak_memory_bytes"}
    text = (folder / "metrics.jsonl").read_text("utf-8")
    return [
        {name: value for name, value in json.loads(line).items() if name not in timing_fields}
        for line in text.splitlines()
    ]


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert all(torch.equal(p, second["parameters"][name]) for name, p in first["parameters"].items())


@pytest.mark.parametrize("case", ["skipped", "ended"])
def test_skipping_sharded_steps_on_the_device_matches_skipping_on_the_host(
    folder: Path, results: dict[str, Any], case: str
) -> None:
    assert lines(folder / f"{case} True") == lines(folder / f"{case} False")
    assert_same(results[f"{case} True"], results[f"{case} False"])
    losses = [line["loss"] for line in lines(folder / f"{case} False") if "loss" in line]
    assert [loss is None for loss in losses] == [False, False, *([True] + 5 * [False])[: len(losses) - 2]]


def test_a_non_finite_loss_on_one_rank_ends_all_ranks(results: dict[str, Any]) -> None:
    assert results["ended False"]["error"].startswith("step 3: the loss is nan. Rows: row ")


def test_signal_to_one_rank_stops_all_ranks_and_resuming_is_bitwise_identical(
    folder: Path, results: dict[str, Any]
) -> None:
    assert results["stopped"]["error"].startswith("stopped by SIGTERM after step 4 of 8; ")
    assert results["resumed"]["step"] == 8
    assert lines(folder / "cut") == lines(folder / "skipped False")
    assert_same(results["resumed"], results["skipped False"])


def test_early_stopping_ends_all_ranks_at_the_same_step(folder: Path, results: dict[str, Any]) -> None:
    assert results["early"]["step"] == 2
    steps = [line["step"] for line in lines(folder / "early") if "validation_loss" in line]
    assert steps == [0, 1, 2]
