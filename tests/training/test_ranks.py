import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tolerance import FLOAT64
from tests.training.run_ranks import run_ranks
from tests.training.steps import assert_same_step, assert_same_step_in_bf16
from tests.training.tiny import SINGLE_RANK, tiny_model
from tests.training.two_ranks import CASES, one_step, sampled_answers, validate
from torchtune.formats import load_hf_weights
from torchtune.placement import full_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two ranks over gloo, and return the folder with their results."""
    return run_ranks(tmp_path_factory, "two_ranks", 2)


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(folder / "results.pt")
    return result


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_step_on_two_ranks_matches_the_step_on_one_rank(results: dict[str, Any], case: str) -> None:
    actual, single = results[case], one_step(SINGLE_RANK, **CASES[case])
    if CASES[case]["dtype"] == "fp64":
        assert_same_step(actual, single)
    else:
        assert_same_step_in_bf16(actual, single)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case]["enable_fsdp"]])
def test_sharded_rank_stores_about_half_of_the_parameters(results: dict[str, Any], case: str) -> None:
    full = one_step(SINGLE_RANK, **CASES[case])["n_stored"]
    assert 0.5 * full <= results[case]["n_stored"] <= 0.55 * full


def test_ranks_agree_on_a_random_seed_and_draw_different_numbers(results: dict[str, Any]) -> None:
    assert len(set(results["seeds"])) == 1
    assert len(set(results["draws"])) == 2


def test_all_ranks_sample_the_tokens_of_rank_0(results: dict[str, Any]) -> None:
    expected = sampled_answers(SINGLE_RANK)
    assert len({len(answer) for answer in expected}) == 2  # one answer ends earlier
    assert results["sampled answers"] == [expected, expected]


def test_resuming_on_two_ranks_is_bitwise_identical(results: dict[str, Any]) -> None:
    assert results["same on every rank"]


def test_all_ranks_resume_from_the_same_checkpoint_or_all_raise(results: dict[str, Any]) -> None:
    assert results["resumed steps"] == [[2, 2], [2, 2]]
    first, second = results["messages"]
    assert first == second
    assert first.startswith("step_2 is damaged: manifest.json is missing; delete that folder")


def test_a_sharded_model_is_saved_in_full_and_loaded_back(folder: Path, results: dict[str, Any]) -> None:
    expected = full_state(tiny_model("bf16"), SINGLE_RANK)
    model = tiny_model("fp64", world=SINGLE_RANK)
    load_hf_weights(model, folder / "final")
    assert expected is not None
    for name, p in model.named_parameters():
        saved = expected[name].bfloat16()
        assert torch.equal(p, saved.double()), name
        assert torch.equal(results["reloaded"][name], saved.float()), name


def test_the_validation_loss_does_not_depend_on_the_number_of_ranks(
    tmp_path: Path, folder: Path, results: dict[str, Any]
) -> None:
    single = validate(SINGLE_RANK, tmp_path)
    assert single == pytest.approx([single[0]] * 3, rel=FLOAT64)
    for losses in results["validations"]:
        assert losses == pytest.approx(single, rel=FLOAT64)
    samples = [read_lines(run_folder / "samples.jsonl") for run_folder in (tmp_path, folder / "validated")]
    assert samples[0] == samples[1]
    # Only the samples of the last validator remain, because every validator starts at step 0.
    assert [line["prompt"] for line in samples[0]] == ["abc"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
