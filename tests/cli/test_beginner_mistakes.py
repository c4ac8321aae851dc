"""Messages about typical mistakes of beginners contain the correct command."""

import re
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.runs.command_line import RUN_OPTIONS

MESSAGES = {
    "lora_finetune": "--config: no config given; the configs of lora_finetune are alpaca_llama2_lora_finetune, smollm2",
    "smollm2_135m_lora": "this is a config of lora_finetune; run tune lora_finetune --config smollm2_135m_lora",
    "validate lora_finetune --config smollm2_135m_lora lr=3": "lr: unknown field 'lr'; use optimizer.lr",
    "import whole.yaml -o new.yaml": "is already a torchtune config",
    "import old.yaml -o new.json": "new.json: the output is a YAML file; the path must end in .yaml",
    "cp lora_finetune x.yaml": "a recipe is a Python file",
}


@pytest.mark.parametrize("args", MESSAGES)
def test_message_contains_the_correct_command(
    args: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tune("cp", "smollm2_135m_lora", "whole.yaml")
    (tmp_path / "old.yaml").write_text("model: {_component_: torchtune.models.llama2.llama2_7b}\n")
    result = tune(*args.split())
    assert result.status == 2
    assert MESSAGES[args] in result.err
    assert len(result.err.splitlines()) == 2 or "mistake" not in result.err


@pytest.mark.parametrize("args", ["", "dataset.source=x metric_logger.log_dir=y model.path=z"])
def test_call_without_a_config_is_reported_as_one_mistake_with_an_example(args: str, tune: Tune) -> None:
    result = tune("lora_finetune", *args.split())
    head, line = result.err.splitlines()
    assert head.startswith("1 mistake")
    assert line.startswith("  --config: no config given; the configs of lora_finetune are ")
    assert line.endswith("; pass --config NAME, such as --config lora")


def test_call_without_a_config_also_reports_mistakes_that_do_not_depend_on_the_config(tune: Tune) -> None:
    result = tune("lora_finetune", "lora_r=8", "dataset.source=x", "lora.r=3", "batch_size=x")
    assert "4 mistakes" in result.err
    assert "lora_r: unknown field 'lora_r'; use lora.rank" in result.err
    assert "lora.r: unknown field 'r'; use rank" in result.err
    assert "batch_size: expected an int above 0, got 'x'" in result.err


def test_missing_files_are_reported_as_notes(tune: Tune) -> None:
    call = ("validate", "lora_finetune", "--config", "smollm2_135m_lora")
    result = tune(*call, "model_directory=nowhere", "dataset.source=none.json")
    assert result.status == 0
    assert "note: model_directory: nowhere does not exist yet" in result.err
    assert "note: dataset.source: none.json does not exist yet" in result.err
    assert "tokenizer" not in result.err  # the tokenizer is in the missing folder


def test_tune_cp_prints_the_command_that_runs_the_copy(tune: Tune, tmp_path: Path) -> None:
    copied = tune("cp", "smollm2_135m_lora", f"{tmp_path}/my.py").out
    assert copied.endswith(f"run: tune lora_finetune --config {tmp_path}/my.py:smollm2_135m_lora\n")
    assert tune("cp", "full_finetune", f"{tmp_path}/r.py").out.endswith(
        "r.py --config full model_directory=DIR dataset.source=rows.jsonl\n"
    )


def test_help_of_a_command_can_be_requested_in_two_ways(tune: Tune) -> None:
    assert tune("help", "ls").out == tune("ls", "--help").out


def test_help_lists_configs_and_marks_defaults(tune: Tune) -> None:
    text = " ".join(tune("lora_finetune", "--help").out.replace("│", " ").split())
    assert "configs: alpaca_llama2_lora_finetune, smollm2_135m_lora" in text
    assert "(config:" not in text


def test_help_of_a_recipe_lists_each_option_on_a_separate_line(tune: Tune) -> None:
    text = tune("lora_finetune", "--help").out
    for option in RUN_OPTIONS:
        patterns = [re.escape(part) for part in (*option.with_value.split(" "), *option.help.split(" "))]
        assert re.search(r"^  " + r"\s+".join(patterns) + "$", text, re.MULTILINE)


def test_help_of_a_config_marks_fields_that_must_be_set_as_required(tune: Tune) -> None:
    result = tune("lora_finetune", "--config", "lora", "--help")
    text = " ".join(result.out.replace("│", " ").split())
    assert (result.status, result.err) == (0, "")
    assert "null: random weights. (required) --tokenizer_directory" in text
    assert "${required}" not in text
    wrong = tune("lora_finetune", "--config", "lora", "--help", "batch_size=xx")
    assert wrong.status == 2
    assert "1 mistake" in wrong.err
    assert "batch_size: expected an int above 0, got 'xx'" in wrong.err


def test_help_also_reports_mistakes_in_the_command(tune: Tune) -> None:
    result = tune(
        "lora_finetune",
        "--config",
        "smollm2_135m_lora",
        "--help",
        "batch_size=xx",
        "optimizer=torch.optim.SDG",
    )
    assert result.status == 2
    assert "torch.optim has no 'SDG'; did you mean 'torch.optim.SGD'?" in result.err
    assert "batch_size: expected an int above 0, got 'xx'" in result.err
    assert "--lora.rank" in result.out


RECIPE = """
from pathlib import Path
from attrs import define
from torchtune import config


@define(kw_only=True)
class UserConfig:
    output_dir: Path = Path("run")
    steps: int = 3


@config.parse
def main(cfg: UserConfig) -> None:
    if cfg.steps == 13:
        Path("none/x").read_text()


def quick() -> UserConfig:
    return UserConfig(steps=1)


def slow() -> UserConfig:
    return UserConfig(steps=9)
"""


def test_configs_of_a_user_recipe_with_a_path_field_are_frozen_and_compared(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchtune.cli import main

    monkeypatch.chdir(tmp_path)
    file = f"user_{tmp_path.name}.py"
    Path(file).write_text(RECIPE)
    assert tune(f"./{file}").status == 0
    assert Path("run/config.yaml").read_text() == "output_dir: run\nsteps: 3\n"
    assert "has finished; " in tune(f"./{file}").err
    assert tune("diff", f"{file}:quick", f"{file}:slow").out == "steps: 1 -> 9\n"
    assert tune("diff", "run", f"{file}:slow").out == "steps: 3 -> 9\n"
    capsys.readouterr()
    assert main([f"./{file}", "output_dir=other", "steps=13"]) == 1
    assert f'{file}", line 16, in main' in capsys.readouterr().err
