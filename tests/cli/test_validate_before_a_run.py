"""`tune validate` reports errors that would stop a run before its first step, and estimates the run's memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_any_model import write_model
from tests.tune import Result, Tune
from torchtune.datasets import auto_dataset
from torchtune.tokenizers import auto_tokenizer

CHAT = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]}
LONG = {"instruction": "a" * 3000, "output": "b"}
WRONG_SCHEDULES = {
    "torch.optim.lr_scheduler.ReduceLROnPlateau": "is not supported: recipes do not pass it a metric",
    "torchtune.training.warmup_stable_decay, decay_steps: 0": "decay_steps: expected an int above 0, got 0",
    "torch.optim.lr_scheduler.OneCycleLR, max_lr: 0.1, pct_start: 2.0": "pct_start",
}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model")


def call(
    tune: Tune, command: str, rows: list[Any], *args: str, recipe: str = "lora_finetune", ranks: int = 1
) -> Result:
    """Validate or run a config whose dataset contains the given rows."""
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = "lora" if recipe == "lora_finetune" else "full"
    plain = ("device=cpu", "dtype=fp32", "loading.workers=0", "validation=null", "output_dir=run")
    return tune(
        command,
        *(("--nproc_per_node", str(ranks)) if ranks > 1 else ()),
        recipe,
        "--config",
        config,
        "model_directory=model",
        "dataset.source=rows.jsonl",
        *plain,
        *args,
    )


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("command", ["validate", "data", "run"])
@pytest.mark.parametrize(
    ("rows", "args", "reason"),
    [
        ([LONG] * 3, (), "3 of 3 rows have no target within 128 tokens"),
        ([LONG] * 70, (), "70 of 70 rows have no target within 128 tokens"),
        ([CHAT] * 3, ("loading.packing.length=4",), "3 of 3 rows have no target within 4 tokens"),
        ([CHAT] * 3, ("model.max_seq_len=5",), "3 of 3 rows have no target within 5 tokens"),
        ([{"instruction": "a", "output": " "}] * 3, (), "3 of 3 have no answer"),
        ([{"messages": CHAT["messages"][:1]}] * 3, (), "3 of 3 have no assistant turn to train on"),
    ],
    ids=["long", "many long", "short packs", "short model", "blank answers", "only questions"],
)
def test_data_without_targets_is_rejected_by_every_command(
    command: str, rows: list[Any], args: tuple[str, ...], reason: str, tune: Tune
) -> None:
    result = call(tune, command, rows, *args)
    assert result.status == 2
    assert reason in result.err
    assert "step 1" not in result.err
    assert not Path("run/final").exists()


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("held_out", "reason"),
    [
        ([LONG] * 3, "no held-out row has a target (3 rows); 3 of 3 rows have no target within 128 tokens"),
        ([LONG] * 70, "no held-out row has a target (70 rows); 70 of 70 rows have no target within 128"),
    ],
    ids=["long", "many long"],
)
def test_held_out_rows_without_targets_are_reported_as_one_mistake(
    command: str, held_out: list[Any], reason: str, tune: Tune
) -> None:
    Path("held_out.jsonl").write_text("\n".join(map(json.dumps, held_out)))
    section = "{_component_: torchtune.datasets.auto_dataset, source: held_out.jsonl}"
    result = call(tune, command, [CHAT], f"validation={{fraction: null, dataset: {section}}}")
    assert result.status == 2
    assert f"validation: {reason}" in result.err
    assert result.err.count("has a target") == 1
    assert command == "run" or "validation={fraction: null" in result.err, (
        "the message must contain the location of the rows"
    )
    assert "step 1" not in result.err


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_held_out_fraction_without_targets_is_reported_as_one_mistake(command: str, tune: Tune) -> None:
    result = call(tune, command, [CHAT], "validation={fraction: 0.5}")
    assert result.status == 2
    assert "validation.fraction: a held-out fraction requires at least two rows, got 1" in result.err
    result = call(tune, command, [LONG] * 3, "validation={fraction: 0.7}", "seed=1")
    assert result.status == 2
    assert "no held-out row has a target (2 rows)" in result.err


def test_one_held_out_row_with_a_target_is_valid(tune: Tune) -> None:
    Path("held_out.jsonl").write_text(
        "\n".join(map(json.dumps, [*[LONG] * 150, {**LONG, "instruction": "a"}]))
    )
    section = "{_component_: torchtune.datasets.auto_dataset, source: held_out.jsonl}"
    assert call(tune, "validate", [CHAT], f"validation={{fraction: null, dataset: {section}}}").status == 0


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("n_long", [63, 200])
def test_one_row_with_a_target_among_many_rows_without_targets_is_valid(n_long: int, tune: Tune) -> None:
    assert call(tune, "validate", [*[LONG] * n_long, {**LONG, "instruction": "a"}]).status == 0


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("schedule", WRONG_SCHEDULES)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_schedule_that_cannot_be_built_is_reported_as_one_mistake_at_its_field(
    schedule: str, command: str, tune: Tune
) -> None:
    result = call(tune, command, [CHAT], f"lr_scheduler={{_component_: {schedule}}}", "max_steps=2")
    assert result.status == 2
    line = result.err.splitlines()[-1]
    assert WRONG_SCHEDULES[schedule] in line
    assert line.count("lr_scheduler: ") == 1


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("torchtune.training.cosine_with_warmup, warmup_steps: 3", "of 3 steps is too long for a run of 2"),
        ("torchtune.training.linear_with_warmup, warmup_steps: 2", "of 2 steps is too long for a run of 2"),
        (
            "torchtune.training.warmup_stable_decay, decay_steps: 9",
            "a decay of 9 steps is too long for a run of 2 steps",
        ),
        ("torchtune.training.constant_with_warmup, warmup_steps: 9", ""),
        ("torch.optim.lr_scheduler.OneCycleLR, max_lr: 0.1", ""),
    ],
)
def test_a_run_shorter_than_its_schedule_is_valid_and_causes_a_note(
    command: str, schedule: str, message: str, tune: Tune, caplog: pytest.LogCaptureFixture
) -> None:
    result = call(tune, command, [CHAT], f"lr_scheduler={{_component_: {schedule}}}", "max_steps=2")
    assert result.status == 0, result.err
    assert message in caplog.text


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (
            "owner/name",
            "folder owner/name does not exist; expected a PEFT adapter folder; if it is a model on the",
        ),
        ("model", "no adapter_config.json in model; expected a PEFT adapter folder"),
        ("run", "run is a run's folder; pass the adapter in it, run/final"),
    ],
)
def test_a_folder_without_an_adapter_is_reported_as_one_mistake(
    command: str, folder: str, message: str, tune: Tune
) -> None:
    assert call(tune, "run", [CHAT], "max_steps=1").status == 0
    args = (f"lora.adapter_directory={folder}", "max_steps=1", "output_dir=further")
    result = call(tune, command, [CHAT], *args)
    assert result.status == 2
    assert message in result.err
    assert not Path("further/final").exists()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("args", "length"),
    [
        (
            ("dataset.source=later.jsonl",),
            "128 tokens; the length is assumed, because the data does not exist yet)\n",
        ),
        (("dataset.source=later.jsonl", "model.max_seq_len=32"), "32 tokens; the length is assumed"),
        ((), "{longest} tokens)\n"),
        (("model.max_seq_len=20",), "20 tokens)\n"),
        (("loading.packing.length=40",), "40 tokens)\n"),
    ],
    ids=["assumed", "assumed, limited by the model", "of the data", "of the model", "of the packs"],
)
def test_activations_are_estimated_for_the_batch_length(
    args: tuple[str, ...], length: str, tune: Tune
) -> None:
    rows = [CHAT, {"messages": CHAT["messages"] * 2}, CHAT]
    settings = ("batch_size=2", "loading.packing=null")
    result = call(tune, "validate", rows, *settings, *args, recipe="full_finetune")
    assert result.status == 0, result.err
    dataset: Any = auto_dataset(auto_tokenizer("model"), "rows.jsonl")
    longest = len(dataset[1].tokens) - 1  # the last token is a target but not an input
    assert 20 < longest < 128
    assert f" of activations (2 batch rows of {length.format(longest=longest)}" in result.out


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("command", ["validate", "run"])
@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        ("torch.optim.Muon", "Muon only supports 2D parameters"),
        ("torch.optim.LBFGS", "closure"),
        ("torch.optim.SparseAdam", "dense"),
    ],
)
def test_an_optimizer_that_cannot_train_the_model_is_reported_in_one_line_with_one_location(
    command: str, optimizer: str, reason: str, tune: Tune
) -> None:
    args = (f"optimizer={optimizer}", "optimizer.lr=0.1", "max_steps=1")
    result = call(tune, command, [CHAT], *args, recipe="full_finetune")
    assert result.status == 2
    (line,) = [line for line in result.err.splitlines() if "optimizer: " in line and "note: " not in line]
    assert reason in line
    assert line.count("--override") <= 1
    assert not Path("run/final").exists()


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("recipe", ["lora_finetune", "alpaca_generate"])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("owner/name", "download it with `tune download owner/name --output-dir models/name`"),
        (
            "Qwen/Qwen2.5-0.5B",
            "download it with `tune download Qwen/Qwen2.5-0.5B --output-dir models/Qwen2.5-0.5B`",
        ),
        ("no/such/folder", "tune download downloads a model"),
    ],
)
def test_message_about_a_hub_name_contains_the_download_command(
    recipe: str, name: str, command: str, tune: Tune
) -> None:
    if recipe == "alpaca_generate":
        args = ("alpaca_generate", "--config", "generate", f"model_directory={name}", "prompt=a")
        validate_result, run_result = tune("validate", *args), tune("run", *args)
    else:
        validate_result, run_result = (
            call(tune, subcommand, [CHAT], f"model_directory={name}") for subcommand in ("validate", "run")
        )
    assert (validate_result.status, run_result.status) == (0, 2), "the config may be for another machine"
    assert command in validate_result.err
    assert command in run_result.err


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", ["owner/name", "Qwen/Qwen2.5-0.5B", "nowhere"])
def test_a_missing_tokenizer_folder_is_reported_in_one_line_with_the_download_command(
    name: str, tune: Tune
) -> None:
    result = call(tune, "run", [CHAT], f"tokenizer_directory={name}")
    assert result.status == 2
    assert f"no such folder: {name}; expected a tokenizer folder or its tokenizer.json" in result.err
    assert "tune download" in result.err
    assert (
        f"tokenizer_directory: {name} does not exist yet"
        in call(tune, "validate", [CHAT], f"tokenizer_directory={name}").err
    )


FP32_NOTE = "note: dtype: fp32 does not use the tensor cores of a GPU"


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("overrides", "has_note"),
    [
        (("device=cuda",), True),
        (("device=cuda", "placement.tf32=true"), False),
        (("device=cuda", "dtype=bf16"), False),
        (("device=cuda", "dtype=auto"), False),
        ((), False),
    ],
)
def test_fp32_on_a_gpu_is_valid_and_causes_a_note(
    tune: Tune, overrides: tuple[str, ...], has_note: bool
) -> None:
    result = call(tune, "validate", [CHAT], *overrides)
    assert (result.status, FP32_NOTE in result.err) == (0, has_note)


@pytest.mark.parametrize(
    ("recipe", "ranks", "enable_fsdp", "is_suggested"),
    [
        ("lora_finetune", 4, "true", True),
        ("lora_finetune", 4, "false", False),
        ("lora_finetune", 1, "true", False),
        ("full_finetune", 4, "true", False),
    ],
)
def test_sharding_frozen_weights_is_compared_with_keeping_them_on_each_rank(
    tune: Tune, recipe: str, ranks: int, enable_fsdp: str, is_suggested: bool
) -> None:
    result = call(tune, "validate", [CHAT] * 3, f"enable_fsdp={enable_fsdp}", recipe=recipe, ranks=ranks)
    assert result.status == 0, result.err
    assert ("most weights are frozen; enable_fsdp=false would not gather them" in result.out) is is_suggested
    if is_suggested:
        sharded, replicated = (
            json.loads(call(tune, "validate", [CHAT] * 3, f"enable_fsdp={value}", "--json", ranks=ranks).out)[
                "needs"
            ]
            for value in ("true", "false")
        )
        assert sharded["peak_without_fsdp"] == replicated["peak"] > 0
        assert "peak_without_fsdp" not in replicated
