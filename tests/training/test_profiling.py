"""Profiling the steps of a run."""

import json
from pathlib import Path

import pytest

from recipes import full_finetune
from tests.recipes.parts import full_config, metrics
from torchtune.config import Trust, only_trusting
from torchtune.training import Profiling


@pytest.mark.slow
@pytest.mark.parametrize("first_step", [2, 4])
def test_trace_contains_the_selected_steps(tmp_path: Path, first_step: int) -> None:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        full_finetune.main(full_config(tmp_path, "plain", epochs=2))
        section = Profiling(first_step=first_step, n_steps=2)
        full_finetune.main(full_config(tmp_path, "a", epochs=2, profiling=section))
    assert metrics(tmp_path, "a") == metrics(tmp_path, "plain")
    folder = tmp_path / "a" / "profile"
    trace = json.loads((folder / "rank_0.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    steps = {name for name in names if name.startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{first_step - 1}", f"ProfilerStep#{first_step}"}
    assert "aten::mm" in names
    assert "aten::mm" in (folder / "rank_0.txt").read_text()


def test_a_run_that_ends_before_the_first_recorded_step_writes_no_profile_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        full_finetune.main(full_config(tmp_path, "a", profiling=Profiling(first_step=50)))
    assert not (tmp_path / "a" / "profile").exists()
    assert (
        "no profile was written: the run ended before it had recorded 2 steps from profiling.first_step=50"
        in caplog.text
    )
