"""What `auto` selects is recorded, and a run notes if it selects something else on another machine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from recipes.full_finetune import FullFinetuneConfig
from recipes.full_finetune import main as full_finetune
from tests.recipes.parts import InterruptOnce, full_config
from tests.training.tiny import SINGLE_RANK
from torchtune.config import Trust, lazy, only_trusting
from torchtune.runs import RunFolder
from torchtune.training._resolved import record_resolved


@pytest.fixture(autouse=True)
def cpu_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide GPUs, so that device=auto is the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def tiny_config(folder: Path, name: str, **changes: Any) -> FullFinetuneConfig:
    fields = {"device": "auto", "max_steps": 2, "checkpoints.every_n_steps": 1, **changes}
    return full_config(folder, name, **fields)


def run(cfg: FullFinetuneConfig) -> None:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        full_finetune(cfg)


def pretend_gpu(folder: Path) -> None:
    """Change a run's record as if `auto` had selected a GPU and bf16."""
    RunFolder(folder).update_record({"resolved": {"device": "cuda", "dtype": "bf16", "other": "kept"}})


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "auto selected" in line]


RESOLVED = {"device": "cpu", "dtype": "fp32", "placement.compile": "false"}
NOTES = [
    f"note: {field}: auto selected {before} in the earlier part of this run or in the run that it repeats, and selects"
    f" {after} now; results will differ"
    for field, before, after in (("device", "cuda", "cpu"), ("dtype", "bf16", "fp32"))
]


def test_a_resumed_run_notes_that_auto_selects_other_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = lazy(InterruptOnce, step=1, marker=str(tmp_path / "marker"))
    cfg = tiny_config(tmp_path, "run", metric_logger=logger)
    with pytest.raises(KeyboardInterrupt):
        run(cfg)
    folder = RunFolder(tmp_path / "run")
    assert folder.read_record()["resolved"] == RESOLVED
    assert notes(capsys) == []
    pretend_gpu(folder.path)
    run(cfg)
    assert notes(capsys) == NOTES
    assert folder.read_record()["resolved"] == {**RESOLVED, "other": "kept"}


@pytest.mark.slow
def test_a_run_that_repeats_another_notes_that_auto_selects_other_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_config(tmp_path, "first"))
    pretend_gpu(tmp_path / "first")
    capsys.readouterr()
    for name, overrides, expected in (
        ("again", (), NOTES),
        ("explicit", ("device=cpu", "dtype=fp32"), []),
    ):
        with only_trusting(Trust(packages=frozenset({"tests"}))):
            config = str(tmp_path / "first/config.yaml")
            arguments = [*overrides, f"output_dir={tmp_path / name}"]
            full_finetune.run(full_finetune.layers(config, arguments))
        assert notes(capsys) == expected
        assert RunFolder(tmp_path / name).read_record()["resolved"] == RESOLVED


def test_only_rank_0_records_and_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text('{"resolved": {"compile": "true"}}')
    second_rank = evolve(SINGLE_RANK, rank=1, size=2)
    record_resolved(str(tmp_path), second_rank, "compile", "auto", "false")
    assert RunFolder(tmp_path).read_record() == {"resolved": {"compile": "true"}}
    assert notes(capsys) == []
    record_resolved(str(tmp_path), SINGLE_RANK, "compile", "auto", "false")
    assert RunFolder(tmp_path).read_record() == {"resolved": {"compile": "false"}}
    assert len(notes(capsys)) == 1
    record_resolved(None, SINGLE_RANK, "compile", "auto", "true")
