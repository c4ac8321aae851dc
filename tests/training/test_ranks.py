import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tolerance import FLOAT64
from tests.training.steps import assert_same_step, assert_same_step_in_bf16
from tests.training.tiny import ALONE, tiny_model
from tests.training.together import together
from tests.training.two_ranks import CASES, one_step, validations
from torchtune.formats import load_hf_weights
from torchtune.training import full_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two processes over gloo, and return the folder of what they found."""
    return together(tmp_path_factory, "two_ranks", 2)


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(folder / "found.pt")
    return result


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_step_of_one(found: dict[str, Any], case: str) -> None:
    ours, alone = found[case], one_step(ALONE, **CASES[case])
    if CASES[case]["dtype"] == "fp64":
        assert_same_step(ours, alone)
    else:
        assert_same_step_in_bf16(ours, alone)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case]["enable_fsdp"]])
def test_sharded_rank_holds_about_half_of_the_parameters(found: dict[str, Any], case: str) -> None:
    whole = one_step(ALONE, **CASES[case])["held"]
    assert 0.5 * whole <= found[case]["held"] <= 0.55 * whole


def test_ranks_agree_on_a_drawn_seed_and_draw_different_numbers(found: dict[str, Any]) -> None:
    assert len(set(found["seeds"])) == 1
    assert len(set(found["draws"])) == 2


def test_two_ranks_resume_to_the_bit(found: dict[str, Any]) -> None:
    assert found["same on every rank"]


def test_ranks_resume_from_one_checkpoint_or_none_does(found: dict[str, Any]) -> None:
    assert found["steps seen"] == [[2, 2], [2, 2]]
    first, second = found["faults"]
    assert first == second
    assert first.startswith(
        "step_2 is damaged: manifest.json is missing; delete that folder"
    )


def test_sharded_model_is_written_whole_and_read_back(folder: Path, found: dict[str, Any]) -> None:
    expected = full_state(tiny_model("bf16"), ALONE, "bf16")
    model = tiny_model("fp64", world=ALONE)
    load_hf_weights(model, folder / "final")
    assert expected is not None
    for name, p in model.named_parameters():
        assert torch.equal(p, expected[name].double()), name
        assert torch.equal(found["read back"][name], expected[name].float()), name


def test_ranks_find_the_validation_loss_of_one(tmp_path: Path, folder: Path, found: dict[str, Any]) -> None:
    alone = validations(ALONE, tmp_path)
    assert alone == pytest.approx([alone[0]] * 3, rel=FLOAT64)
    for losses in found["validations"]:
        assert losses == pytest.approx(alone, rel=FLOAT64)
    samples = [read_lines(where / "samples.jsonl") for where in (tmp_path, folder / "validated")]
    assert samples[0] == samples[1]
    assert [line["prompt"] for line in samples[0]] == ["abc"]  # of the last validator: each begins at step 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
