"""Validation: the loss on held-out rows, the best model, and early stopping."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from attrs import define
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from recipes import full_finetune, lora_finetune
from tests.data.byte_tokenizer import ByteTokenizer
from tests.recipes.parts import ROWS, InterruptOnce, full_config, lora_config, metrics
from tests.tolerance import FLOAT64, bound, roundings
from tests.training.tiny import (
    SINGLE_RANK,
    SmallTokenizer,
    examples,
    make_batch,
    perturb_adapters,
    place,
    step_loss,
    tiny_decoder,
    tiny_model,
    tiny_validator,
)
from torchtune.config import Trust, instantiate, lazy, only_trusting
from torchtune.data import Example, SkippedRow, split_off
from torchtune.datasets import InstructDataset
from torchtune.formats import load_hf_weights, load_peft_adapter
from torchtune.modules import LinearCrossEntropy
from torchtune.placement import Sharding
from torchtune.training import Lora, Metrics, NextToken, Validation, Validator
from torchtune.training._validation import held_out_items
from torchtune.utils.metric_logging import read_metrics


@pytest.fixture(autouse=True)
def trust_the_tests() -> Iterator[None]:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        yield


def hold_out_half(**fields: Any) -> Validation:
    return Validation(fraction=0.5, **fields)


def mean_loss_by_row(model: nn.Module) -> float:
    """Compute the mean loss over all target tokens, row by row."""
    total, n = 0.0, 0
    for row in examples():
        batch = make_batch([row])
        row_log_probs = torch.log_softmax(model(batch.tokens).detach()[0], dim=-1)
        for log_probs, label in zip(row_log_probs, batch.labels[0].tolist(), strict=True):
            if label >= 0:
                total, n = total - float(log_probs[label]), n + 1
    return total / n


@pytest.mark.parametrize("batch_size", [1, 3, 4, 50])
def test_the_loss_is_the_mean_over_target_tokens_at_any_batch_size(tmp_path: Path, batch_size: int) -> None:
    model = tiny_model()
    validator = tiny_validator(tmp_path, hold_out_half(), model, batch_size=batch_size)
    with Metrics(str(tmp_path), [], SINGLE_RANK, 0, 99) as metrics:
        assert validator.validate(0, metrics) == pytest.approx(mean_loss_by_row(model), rel=FLOAT64)


@define
class ScriptedRun:
    """A substitute for `Run` whose steps do nothing."""

    metrics: Metrics
    step: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the run is complete."""
        return self.step == 99

    def read_numbers(self) -> None:
        """Do nothing, because there are no values to read."""


def run_scripted(
    validator: Validator, losses: list[float], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Take steps with a validator that reports predefined losses; return the steps taken."""
    remaining = iter(losses)
    monkeypatch.setattr(validator, "_mean_loss", lambda: (next(remaining), {}))
    steps = []
    with Metrics(str(folder), [], SINGLE_RANK, 0, 99) as metrics:
        run: Any = ScriptedRun(metrics)
        validator.validate_if_due(run)
        while not (run.is_complete or validator.should_stop):
            run.step += 1
            steps.append(run.step)
            validator.validate_if_due(run)
    return steps


def test_early_stopping_ends_the_run_and_the_best_model_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = []
    validator = tiny_validator(
        tmp_path, hold_out_half(every_n_steps=10, patience=3, min_improvement=0.1), tiny_model()
    )
    validator._save = lambda: saved.append(validator.best_step)
    curve = [5.0, 4.0, 3.0, 2.0, 1.95, 2.5, 3.0, 1.0]  # losses at steps 0, 10, ...; they rise after step 40
    steps = run_scripted(validator, curve, tmp_path, monkeypatch)
    assert steps[-1] == 60
    # 1.95 is the lowest loss but improves by less than 0.1: the model is saved, and patience is not reset.
    assert saved == [10, 20, 30, 40]
    stderr = capsys.readouterr().err
    assert (
        "step 60: early stopping: validation loss has not improved on 2.0000 by more than 0.1 in 3 validations"
        in stderr
    )
    assert [step for step, _ in read_metrics(tmp_path).series("validation_loss")] == list(range(0, 61, 10))


def test_without_early_stopping_all_steps_are_taken_and_the_last_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = tiny_validator(tmp_path, hold_out_half(every_n_steps=40, at_start=False), tiny_model())
    assert run_scripted(validator, [1.0, 2.0, 3.0], tmp_path, monkeypatch)[-1] == 99
    assert [step for step, _ in read_metrics(tmp_path).series("validation_loss")] == [40, 80, 99]


def test_a_non_finite_validation_loss_does_not_count_for_early_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = tiny_validator(tmp_path, hold_out_half(every_n_steps=1, patience=2), tiny_model())
    curve = [float("nan"), 1.0, float("nan"), float("inf"), 2.0, 3.0, 4.0]
    assert run_scripted(validator, curve, tmp_path, monkeypatch) == [1, 2, 3, 4, 5]
    assert (validator.best_loss, validator.best_step) == (1.0, 1)


def test_samples_of_all_validations_are_kept_and_those_of_a_killed_run_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = hold_out_half(every_n_steps=1, patience=2, prompts=["abc"], max_new_tokens=2)
    (tmp_path / "samples.jsonl").write_text('{"step": 0, "prompt": "of a killed run", "answer": ""}\n')
    validator = tiny_validator(tmp_path, section, tiny_model())
    assert run_scripted(validator, [1.0, 2.0, 3.0], tmp_path, monkeypatch) == [1, 2]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in samples] == [(0, "abc"), (1, "abc"), (2, "abc")]


def prompt_logits(
    folder: Path, lora: Lora | None, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Tensor:
    """Return the logits `[answer tokens, v]` from which a bf16 run answers a prompt in a validation."""
    with torch.device("meta"):
        model = tiny_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, SINGLE_RANK, dtype="bf16", **settings)
    perturb_adapters(model)
    validator = tiny_validator(folder, hold_out_half(prompts=["abc"], max_new_tokens=6), model)
    logits: list[Tensor] = []
    compute_logits = model.logits

    def record(hidden: Tensor) -> Tensor:
        logits.append(compute_logits(hidden))
        return logits[-1]

    monkeypatch.setattr(model, "logits", record)
    validator._answers()
    return torch.cat(logits)


@pytest.mark.parametrize("lora", [None, Lora(targets=["all-linear"], rank=3)], ids=["full", "lora"])
def test_prompts_of_a_bf16_run_are_answered_in_bf16_with_and_without_fsdp(
    tmp_path: Path, lora: Lora | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = prompt_logits(tmp_path, lora, monkeypatch)
    assert single.dtype == torch.bfloat16
    offloaded = {"enable_fsdp": True, "sharding": Sharding(cpu_offload=True)}  # uses FSDP on one rank
    try:
        sharded = prompt_logits(tmp_path, lora, monkeypatch, **offloaded)
    finally:
        dist.destroy_process_group()
    assert torch.equal(single, sharded)


def test_samples_after_the_checkpoint_are_removed_on_resuming(tmp_path: Path) -> None:
    lines = [f'{{"step": {step}, "prompt": "", "answer": ""}}\n' for step in (2, 4, 5)]
    (tmp_path / "samples.jsonl").write_text("".join(lines))
    validator = tiny_validator(tmp_path, hold_out_half(every_n_steps=7, prompts=["abc"]), tiny_model())
    validator.last_step = 4  # the step of the checkpoint
    with Metrics(str(tmp_path), [], SINGLE_RANK, 4, 99) as metrics:
        run: Any = ScriptedRun(metrics, step=4)
        validator.validate_if_due(run)
    assert (tmp_path / "samples.jsonl").read_text() == "".join(lines[:2])


def test_resuming_without_validation_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    validator = tiny_validator(tmp_path, hold_out_half(), model)
    scorer, tokenizer = NextToken(LinearCrossEntropy()), SmallTokenizer()
    disabled = Validator(None, model, scorer, tokenizer, 2, SINGLE_RANK, str(tmp_path), lambda: None)
    disabled.load_state_dict(validator.state_dict())
    assert not caplog.records


CHANGES: dict[str, Any] = {"epochs": 4, "checkpoints.every_n_steps": 2}
HELD_OUT = [row | {"output": "It is so."} for row in ROWS[:3]]


def held_out(folder: Path, **fields: Any) -> Validation:
    source = folder / "held_out.json"
    source.write_text(json.dumps(HELD_OUT))
    return Validation(dataset=lazy(InstructDataset, source=str(source)), **fields)


@pytest.mark.slow
def test_validation_does_not_affect_training(tmp_path: Path) -> None:
    section = held_out(tmp_path, every_n_steps=3, prompts=["Who are you?"], max_new_tokens=5)
    lora = {"lora": lora_config(tmp_path).lora}
    lora["lora"].dropout = 0.3
    lora_finetune.main(lora_config(tmp_path, "plain", **CHANGES, **lora))
    lora_finetune.main(lora_config(tmp_path, "validated", validation=section, **CHANGES, **lora))
    lines = metrics(tmp_path, "validated")
    assert [line for line in lines if "loss" in line] == metrics(tmp_path, "plain")
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 3, 6, 9, 12]
    weights = [tmp_path / name / "final" / "adapter_model.safetensors" for name in ("plain", "validated")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    samples = [
        json.loads(line) for line in (tmp_path / "validated" / "samples.jsonl").read_text().splitlines()
    ]
    assert [(line["step"], line["prompt"]) for line in samples] == [
        (step, "Who are you?") for step in (0, 3, 6, 9, 12)
    ]


@pytest.mark.slow
def test_a_resumed_run_validates_like_an_uninterrupted_one(tmp_path: Path) -> None:
    section = held_out(tmp_path, every_n_steps=2, patience=3, prompts=["Hi"], max_new_tokens=3)
    optimizer = lazy(SGD, lr=0.3)
    full_finetune.main(full_config(tmp_path, "a", validation=section, optimizer=optimizer, **CHANGES))
    cut = lazy(InterruptOnce, step=7, marker=str(tmp_path / "marker"))
    cfg = full_config(tmp_path, "b", validation=section, optimizer=optimizer, **CHANGES, metric_logger=cut)
    with pytest.raises(KeyboardInterrupt):
        full_finetune.main(cfg)
    with (tmp_path / "b" / "samples.jsonl").open("a") as file:
        file.write('{"step": 9, "prompt": "Hi", "ans')
    full_finetune.main(cfg)
    assert metrics(tmp_path, "b") == metrics(tmp_path, "a")
    for name in ("samples.jsonl", "final/model.safetensors", "best/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_best_model_has_the_lowest_validation_loss(tmp_path: Path, kind: str) -> None:
    # The training rows are memorized quickly, and held-out rows with different answers become less likely.
    section = held_out(tmp_path, every_n_steps=2)
    changes: dict[str, Any] = {
        "epochs": 30,
        "batch_size": 6,
        "validation": section,
        "optimizer": lazy(AdamW, lr=1e-2 if kind == "full" else 3e-3, fused=True),
    }
    base: Path | None = None
    if kind == "full":
        full_finetune.main(full_config(tmp_path, "a", **changes))
    else:
        # With a base model trained for twelve steps, the loss falls by 0.008 and then rises by 0.013 until the end.
        base_settings = {"epochs": 30, "batch_size": 6, "optimizer": lazy(AdamW, lr=1e-2, fused=True)}
        full_finetune.main(full_config(tmp_path, "base", max_steps=12, **base_settings))
        base = tmp_path / "base" / "final"
        changes |= {"model_directory": str(base), "tokenizer_directory": None}
        lora_finetune.main(lora_config(tmp_path, "a", **changes))
    losses = dict(read_metrics(tmp_path / "a").series("validation_loss"))
    best = min(losses, key=lambda step: losses[step])
    assert 0 < best < 30, "the loss must fall, then rise"
    model = instantiate(full_config(tmp_path).model)
    load_hf_weights(model, base or tmp_path / "a" / "best")
    if base is not None:
        load_peft_adapter(model, tmp_path / "a" / "best")
    dataset: Any = instantiate(section.dataset, ByteTokenizer())
    rows: list[Example] = held_out_items(dataset, None, 256)
    loss_fn = step_loss(LinearCrossEntropy(reduction="sum"), "fp32")
    total = sum(loss_fn(model, make_batch([row])).item() for row in rows)
    error_bound = bound(torch.float32, roundings(model.architecture, max(len(row.tokens) for row in rows)))
    assert total / sum(row.n_targets for row in rows) == pytest.approx(losses[best], rel=error_bound)


def test_split_off_holds_out_a_fraction_of_the_rows() -> None:
    rows = examples(40)
    trained, held_rows = split_off(rows, 0.25, seed=3)
    assert (len(trained), len(held_rows)) == (30, 10)
    all_rows = [trained[i] for i in range(30)] + [held_rows[i] for i in range(10)]
    numbers = [next(i for i, row in enumerate(rows) if row is split_row) for split_row in all_rows]
    assert sorted(numbers) == list(range(40))
    assert numbers[:30] == sorted(numbers[:30])
    splits = [split_off(rows, 0.25, seed=3)[1].rows, split_off(rows, 0.25, seed=4)[1].rows]
    assert held_rows.rows == splits[0] != splits[1]
    assert [trained.location(i) for i in (0, 29)] == [f"row {numbers[i] + 1}" for i in (0, 29)]
    with pytest.raises(IndexError):
        held_rows[10]
    assert len(split_off(rows[:2], 0.99, seed=0)[0]) == 1
    with pytest.raises(ValueError, match="a held-out fraction requires at least two rows, got 1"):
        split_off(rows[:1], 0.5, seed=0)


def test_held_out_rows_are_not_trained_on(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"validation": Validation(fraction=0.34, every_n_steps=1), "batch_size": 1}
    full_finetune.main(full_config(tmp_path, "a", **changes))
    lines = metrics(tmp_path, "a")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    dataset: Any = instantiate(full_config(tmp_path).dataset, ByteTokenizer())
    _, held_rows = split_off(dataset, 0.34, seed=1)
    assert lines[0]["validation_targets"] == sum(
        held_out_items(held_rows, None, 256)[i].counts["targets"] for i in range(2)
    )


class Rows(list[Any]):
    """A list that serves as a dataset."""


def test_held_out_rows_without_a_target_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with_target = Example([1, 2, 3], [-100, 2, 3])
    rows = Rows(
        [
            SkippedRow("have no answer", "row 1"),
            with_target,
            Example([1, 2, 3], [-100] * 3),
            [with_target, with_target],
        ]
    )
    assert held_out_items(rows, None, 9) == [with_target] * 3
    assert "validation: 1 of 4 rows has no answer and is skipped; first occurrence: row 1" in caplog.text
    assert (
        "validation: 1 of 4 rows has no target within 9 tokens and is skipped; first occurrence: row 3"
        in caplog.text
    )
    assert held_out_items(rows, None, 1)[0].tokens == [1, 2]
    with pytest.raises(
        ValueError,
        match=r"no held-out row has a target \(1 row\); 1 of 1 row has no answer and is skipped;"
        " first occurrence: row 1",
    ):
        held_out_items(Rows(rows[:1]), None, 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "neither is"),
        ({"fraction": 0.1, "dataset": lazy(InstructDataset, source="x")}, "both are set"),
        ({"fraction": 0.0}, "expected a number above 0 and below 1, got 0.0"),
        ({"fraction": 1.0}, "expected a number above 0 and below 1, got 1.0"),
        ({"fraction": 0.1, "patience": 0}, "patience"),
    ],
)
def test_invalid_sections_are_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Validation(**fields)


def test_a_prompt_that_is_too_long_is_reported_before_the_run(tmp_path: Path) -> None:
    section = held_out(tmp_path, prompts=["Hi", "How long " * 30])
    with pytest.raises(ValueError, match=r"validation.prompts: 'How long .*' has \d+ tokens"):
        full_finetune.main(full_config(tmp_path, "a", validation=section))
    assert not (tmp_path / "a" / "metrics.jsonl").exists()


def test_early_stopping_is_reset_if_the_held_out_rows_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (tiny_validator(tmp_path, hold_out_half(), tiny_model()) for _ in range(2))
    first.best_loss, first.best_step, first.since_improved = 1.0, 5, 2
    second.load_state_dict(first.state_dict())
    assert (second.best_loss, second.best_step, second.since_improved) == (1.0, 5, 2)
    other = tiny_validator(tmp_path, hold_out_half(), tiny_model())
    other.load_state_dict(first.state_dict() | {"rows": [3, 4]})
    assert (other.best_loss, other.best_step, other.since_improved) == (None, None, 0)
    assert "the held-out rows have changed" in caplog.text
