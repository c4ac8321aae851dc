"""`tune data`, `tune validate` and runs report skipped rows; a run without usable rows ends before its first step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_run import Tiny, tiny_run
from tests.tune import Result, Tune

CHAT = "dataset=torchtune.datasets.ChatDataset"
PREFERENCE = "torchtune.datasets.PreferenceDataset"
CHAT_ROW = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
TOOL_CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {}}]}
TOOL_CALL_ROW = {"messages": [{"role": "user", "content": "Q"}, TOOL_CALL]}
PAIR_ROW = {"prompt": "Q", "chosen": "A", "rejected": "B"}
LONG_ROW = {"instruction": "Q" * 3000, "output": "A"}
SCHEDULE = "lr_scheduler={_component_: torchtune.training.cosine_with_warmup, warmup_steps: 1}"
COMMANDS = ("data", "validate", "run")


@pytest.fixture
def tiny(tune: Tune, tmp_path: Path) -> Tiny:
    return tiny_run(tmp_path, lambda *args: tune(*args).status)


def write(tiny: Tiny, rows: Sequence[Any], name: str = "users.jsonl") -> str:
    path = tiny.folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def call(tune: Tune, tiny: Tiny, command: str, rows: Sequence[Any], *args: str) -> Result:
    """Show, validate or train on rows; training ends after one step."""
    first = () if command == "run" else (command,)
    run = (f"output_dir={tiny.folder / 'out'}", "max_steps=1", "lr_scheduler=null", "device=cpu")
    held_out = () if any(arg.startswith("validation") for arg in args) else ("validation=null",)
    source = f"dataset.source={write(tiny, rows)}"
    config = ("lora_finetune", "--config", "smollm2_135m_lora")
    dataset, others = args[:1], args[1:]
    return tune(*first, *config, *tiny.overrides, *dataset, source, "seed=1", *run, *held_out, *others)


@pytest.mark.slow
def test_tool_calls_not_rendered_by_the_chat_template_are_rejected(tune: Tune, tiny: Tiny) -> None:
    rows = [CHAT_ROW, CHAT_ROW, CHAT_ROW, TOOL_CALL_ROW]
    for command in ("data", "run"):
        result = call(tune, tiny, command, rows, CHAT)
        assert result.status == 2
        assert "users.jsonl: line 4: the chat template does not render tool calls" in result.err
        assert "step 1" not in result.out
    first = call(tune, tiny, "validate", [TOOL_CALL_ROW, CHAT_ROW], CHAT)
    assert (first.status, "line 1: the chat template does not render tool calls" in first.err) == (2, True)
    assert not (tiny.folder / "out" / "final").exists()


def test_rows_with_unrendered_tool_calls_can_be_skipped_and_are_counted(
    tune: Tune, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [CHAT_ROW, CHAT_ROW, CHAT_ROW, TOOL_CALL_ROW]
    result = call(tune, tiny, "data", rows, CHAT, "dataset.on_error=skip")
    assert result.status == 0
    assert "rows cannot be used and is skipped; first occurrence: " in result.out
    assert "users.jsonl: line 4: the chat template does not render tool calls" in result.out
    run = call(tune, tiny, "run", rows, CHAT, "dataset.on_error=skip", "shuffle=false")
    assert run.status == 0, run.err
    assert "4: the chat template does not render tool calls" in caplog.text
    (text,) = json.loads((tiny.folder / "out" / "run.json").read_text())["data"]["notes"]
    assert text == "cannot be used and are skipped"


UNUSED_COLUMNS = "3 of 4 rows have unused columns: 'id', 'chosen_by'; first occurrence: "
UNRENDERED_TOOLS = "have tools that the chat template does not render; first occurrence: "


@pytest.mark.slow
def test_unused_columns_and_unrendered_tools_are_reported_by_tune_data_and_the_run(
    tune: Tune, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [CHAT_ROW, *({**CHAT_ROW, "id": i, "chosen_by": "x", "tools": [{"name": "f"}]} for i in range(3))]
    result = call(tune, tiny, "data", rows, CHAT)
    assert result.status == 0
    assert result.out.count(f"warning: {UNUSED_COLUMNS}") == 1
    assert result.out.count(f"warning: 3 of 4 rows {UNRENDERED_TOOLS}") == 1
    cached = f"loading.token_cache={tiny.folder / 'cache'}"
    for overwrite in (False, True):
        caplog.clear()
        run = call(tune, tiny, "run", rows, CHAT, cached, *(["--overwrite"] if overwrite else []))
        assert run.status == 0, run.err
        assert caplog.text.count(UNUSED_COLUMNS) == 2, (
            "expected one warning before the first step and one after the epoch"
        )
        assert UNRENDERED_TOOLS in caplog.text
        record = json.loads((tiny.folder / "out" / "run.json").read_text())
        assert any("have tools that the chat template" in text for text in record["data"]["notes"])


@pytest.mark.slow
def test_unused_parts_of_held_out_rows_are_reported_by_the_run(
    tune: Tune, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    held_out = write(tiny, [{**CHAT_ROW, "id": 1, "tools": [{"name": "f"}]}, TOOL_CALL_ROW], "held_out.jsonl")
    section = f"{{_component_: torchtune.datasets.ChatDataset, source: {held_out}, on_error: skip}}"
    run = call(tune, tiny, "run", [CHAT_ROW] * 3, CHAT, f"validation={{dataset: {section}, prompts: []}}")
    assert run.status == 0, run.err
    for message in (
        f"validation: 1 of 2 rows {UNRENDERED_TOOLS.replace('have', 'has', 1)}",
        "validation: 1 of 2 rows cannot be used and is skipped",
    ):
        assert message in caplog.text
    section = section.replace("on_error: skip", "on_error: raise")
    run = call(
        tune,
        tiny,
        "run",
        [CHAT_ROW] * 3,
        CHAT,
        f"validation={{dataset: {section}, prompts: []}}",
        "--overwrite",
    )
    assert (run.status, "held_out.jsonl: line 2: the chat template does not" in run.err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "args", "reason"),
    [
        ([LONG_ROW] * 3, ("dataset=torchtune.datasets.InstructDataset",), "have no target within 64 tokens"),
        (
            [LONG_ROW] * 3,
            ("dataset=torchtune.datasets.InstructDataset", "loading.packing.length=32"),
            "no target within 32 tokens",
        ),
        (
            [LONG_ROW] * 3,
            ("dataset=torchtune.datasets.InstructDataset", "max_steps=null", SCHEDULE),
            "have no target within 64 tokens",
        ),
        ([TOOL_CALL_ROW] * 3, (CHAT, "dataset.on_error=skip"), "cannot be used"),
    ],
    ids=["too long", "too long for a pack", "too long with warm-up", "all skipped"],
)
def test_run_without_trainable_targets_does_not_start(
    rows: list[Any], args: tuple[str, ...], reason: str, tune: Tune, tiny: Tiny
) -> None:
    result = call(tune, tiny, "run", rows, *args)
    assert result.status == 2
    assert "no row has a target (3 rows): 3 of 3 rows" in result.err
    assert reason in result.err
    assert "users.jsonl: line 1" in result.err
    assert not (tiny.folder / "out" / "final").exists()


@pytest.mark.slow
def test_held_out_rows_without_targets_are_rejected_before_the_first_step(tune: Tune, tiny: Tiny) -> None:
    source = write(tiny, [LONG_ROW], "long.jsonl")
    section = f"{{_component_: torchtune.datasets.InstructDataset, source: {source}}}"
    run = call(tune, tiny, "run", [CHAT_ROW] * 3, CHAT, f"validation={{dataset: {section}, prompts: []}}")
    assert run.status == 2
    assert (
        "validation: no held-out row has a target (1 row); 1 of 1 row has no target within 64 tokens"
        in run.err
    )


WRONG_DATASET_TYPE = "is a Dataset of Pair | SkippedRow, but the recipe needs a Dataset of Example"


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("command", COMMANDS)
def test_preference_dataset_in_a_supervised_recipe_is_rejected(command: str, tune: Tune, tiny: Tiny) -> None:
    result = call(tune, tiny, command, [PAIR_ROW] * 3, f"dataset={PREFERENCE}")
    assert result.status == 2
    assert f"dataset: {PREFERENCE} {WRONG_DATASET_TYPE}" in result.err
    section = (
        f"validation={{dataset: {{_component_: {PREFERENCE}, source: {write(tiny, [PAIR_ROW], 'p.jsonl')}}}}}"
    )
    held_out = call(tune, tiny, command, [CHAT_ROW] * 3, CHAT, section)
    assert held_out.status == 2
    assert f"validation.dataset: {PREFERENCE} {WRONG_DATASET_TYPE}" in held_out.err
    assert not (tiny.folder / "out").exists()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**CHAT_ROW, "label": False}, "the rows have a boolean column 'label', like data for KTO"),
        (
            {**CHAT_ROW, "chosen": "A", "rejected": "B"},
            "the rows have columns 'chosen' and 'rejected', like data for",
        ),
    ],
)
def test_preference_rows_are_rejected_by_a_chat_dataset(
    command: str, row: dict[str, Any], message: str, tune: Tune, tiny: Tiny
) -> None:
    result = call(tune, tiny, command, [row] * 3, CHAT)
    assert result.status == 2
    assert f"users.jsonl: line 1: {message}" in result.err
