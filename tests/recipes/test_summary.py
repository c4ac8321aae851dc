"""The lines that a run prints when it starts, resumes and ends."""

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from torch.optim import AdamW

from recipes import full_finetune, lora_finetune
from tests.recipes.parts import InterruptOnce, full_config, lora_config, metrics
from tests.training.tiny import SINGLE_RANK
from torchtune.config import lazy
from torchtune.runs import RunFolder
from torchtune.runs._finish import closing_lines
from torchtune.training import Packing, Validation
from torchtune.training._global_batch import GlobalBatch

VALIDATED: dict[str, Any] = {"validation": Validation(fraction=0.4, every_n_steps=1)}


@pytest.mark.slow
def test_a_starting_run_prints_model_data_and_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = VALIDATED | {"epochs": 2, "batch_size": 2, "gradient_accumulation_steps": 1}
    full_finetune.main(full_config(tmp_path, "full", **changes))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("model: ")
    assert ", all trainable, on cpu, fp32" in lines[0]
    assert lines[1] == "data: 4 rows; 4 steps of 2 rows, 2 epochs"
    assert "validation: 2 held-out rows, after every step" in lines
    lora_finetune.main(lora_config(tmp_path, "lora", max_steps=1))
    lines = capsys.readouterr().err.splitlines()
    assert "; 1 step of " in lines[1]
    assert "%) trainable, on cpu, fp32" in lines[0]
    assert not [line for line in lines if line.startswith("validation:")]


def test_a_starting_run_counts_packs_and_omits_epochs_if_max_steps_is_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"loading.packing": Packing(length=64), "max_steps": 3}
    full_finetune.main(full_config(tmp_path, "packed", **changes))
    assert "data: 6 rows; 3 steps of 2 packs" in capsys.readouterr().err.splitlines()
    full_finetune.main(full_config(tmp_path, "padded", max_steps=2, gradient_accumulation_steps=3))
    assert "data: 6 rows; 2 steps of 6 rows" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("packing", "is_suggested"), [(None, True), (Packing(length=200), False)])
def test_packing_is_suggested_if_padding_is_high(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packing: Packing | None, is_suggested: bool
) -> None:
    rows = [{"instruction": "a" * n, "input": "", "output": "b"} for n in (1, 100, 2, 90)]
    changes: dict[str, Any] = {"batch_size": 4, "max_steps": 1, "loading.packing": packing}
    full_finetune.main(full_config(tmp_path, "a", rows=rows, **changes))
    suggestion = "of all positions; loading.packing.length=256 avoids most of it"
    assert (suggestion in capsys.readouterr().err) == is_suggested


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("epochs", "changes", "has_hint"),
    [(3, {}, True), (3, {"max_steps": 3}, False), (12, {}, False)],
)
def test_a_run_of_few_steps_prints_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], epochs: int, changes: dict[str, Any], has_hint: bool
) -> None:
    rows = [{"instruction": "a", "input": "", "output": "b"}] * 2
    full_finetune.main(full_config(tmp_path, "a", rows=rows, batch_size=2, epochs=epochs, **changes))
    line = "steps: 3 optimizer steps may be too few; raise epochs"
    assert (line in capsys.readouterr().err) is has_hint


def test_a_finished_run_prints_the_folders_of_the_final_and_the_best_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora_finetune.main(lora_config(tmp_path, "a run", **VALIDATED))
    text = capsys.readouterr().err
    lines = text.splitlines()
    run = tmp_path / "a run"
    assert "try it" not in text, "without a base model, no command is suggested"
    assert f"finished: the trained model is in {run / 'final'}" in lines
    assert any(
        line.startswith("best: the model with the lowest validation loss (")
        and line.endswith(f" is in {run / 'best'}")
        for line in lines
    )
    full_finetune.main(full_config(tmp_path, "full", max_steps=1))
    text = capsys.readouterr().err
    assert "merge it" not in text
    assert "best:" not in text


@pytest.mark.parametrize("base", [None, "models/base"])
def test_a_finished_run_prints_the_next_commands_unless_the_base_model_is_unknown(
    tmp_path: Path, base: str | None
) -> None:
    run = RunFolder(tmp_path / "a run")
    run.final.mkdir(parents=True)
    (run.final / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    commands = [
        f"try it: tune alpaca_generate --config generate model_directory='{run.path}'",
        f"merge it: tune convert '{run.final}' merged",
    ]
    assert [*closing_lines(run)][1:] == (commands if base else [])


@pytest.mark.parametrize("lr", [1e-2, 1.0])
def test_a_run_that_stops_early_prints_the_best_and_the_final_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lr: float
) -> None:
    changes: dict[str, Any] = {"optimizer": lazy(AdamW, lr=lr), "epochs": 40, "batch_size": 4}
    validation = Validation(fraction=0.4, every_n_steps=1, patience=1, min_improvement=0.5)
    full_finetune.main(full_config(tmp_path, "a", validation=validation, **changes))
    lines = capsys.readouterr().err.splitlines()
    losses = {
        line["step"]: line["validation_loss"] for line in metrics(tmp_path, "a") if "validation_loss" in line
    }
    assert max(losses) < 40, "the run must stop early"
    step = min(losses, key=lambda step: losses[step])
    assert bool(step) == (lr < 1)
    loss = f"{losses[step]:.4f}"
    expected = (
        f"best: the model with the lowest validation loss ({loss}, step {step}) is in {tmp_path / 'a/best'}"
        if step
        else f"best: validation loss never improved on {loss}, its value before training; "
    )
    (best,) = [line for line in lines if line.startswith("best: ")]
    assert best.startswith(expected)
    assert f"finished: the trained model is in {tmp_path / 'a/final'}" in lines
    (note,) = [line for line in lines if "early stopping" in line]
    assert note.startswith(f"step {max(losses)}: ")


def test_a_resumed_run_prints_the_step_and_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {"checkpoints.every_n_steps": 1, "epochs": 2}
    changes |= {"metric_logger": lazy(InterruptOnce, step=2, marker=str(tmp_path / "marker"))}
    with pytest.raises(KeyboardInterrupt):
        full_finetune.main(full_config(tmp_path, "a", **changes))
    assert "resuming" not in capsys.readouterr().err
    full_finetune.main(full_config(tmp_path, "a", **changes))
    checkpoint = tmp_path / "a/checkpoints/step_1"
    assert f"resuming from {checkpoint}, after step 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "accumulation", "message"),
    [
        (
            1,
            2,
            "the global batch size is now 4 rows (was 8 on 2 ranks); set gradient_accumulation_steps=4 to restore it",
        ),
        (
            4,
            2,
            "the global batch size is now 16 rows (was 8 on 2 ranks); set gradient_accumulation_steps=1 to restore it",
        ),
        (
            3,
            1,
            "the global batch size is now 6 rows (was 8 on 2 ranks); no value of gradient_accumulation_steps",
        ),
        (1, 4, ""),
        (2, 2, ""),
    ],
)
def test_a_changed_global_batch_is_reported_with_the_setting_that_restores_it(
    size: int, accumulation: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved = GlobalBatch(2, 2, evolve(SINGLE_RANK, size=2, data_size=2)).state_dict()
    GlobalBatch(2, accumulation, evolve(SINGLE_RANK, size=size, data_size=size)).load_state_dict(saved)
    assert message in caplog.text
    assert bool(caplog.text) == bool(message)
