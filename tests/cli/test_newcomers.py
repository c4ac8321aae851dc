"""What a newcomer types that is nearly right, and what is said then."""

import re
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.runs.command_line import RUN_OPTIONS

SAID = {
    "lora_finetune": "--config: none is named; those of lora_finetune are alpaca_llama2_lora_finetune, smollm2_135m",
    "smollm2_135m_lora": "is a config of lora_finetune; write tune lora_finetune --config smollm2_135m_lora",
    "validate lora_finetune --config smollm2_135m_lora lr=3": "lr: no 'lr'; write optimizer.lr",
    "import whole.yaml -o new.yaml": "is a config of ours already",
    "import old.yaml -o new.json": "new.json: a config is YAML; end the path in .yaml",
    "cp lora_finetune x.yaml": "a recipe is a Python file",
}


@pytest.mark.parametrize("words", SAID)
def test_mistake_says_what_to_type(
    words: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tune("cp", "smollm2_135m_lora", "whole.yaml")
    (tmp_path / "old.yaml").write_text("model: {_component_: torchtune.models.llama2.llama2_7b}\n")
    found = tune(*words.split())
    assert found.status == 2
    assert SAID[words] in found.err
    assert len(found.err.splitlines()) == 2 or "mistake" not in found.err


@pytest.mark.parametrize("words", ["", "dataset.source=x metric_logger.log_dir=y model.path=z"])
def test_call_without_a_config_is_one_mistake_with_an_example(words: str, tune: Tune) -> None:
    found = tune("lora_finetune", *words.split())
    head, line = found.err.splitlines()
    assert head.startswith("1 mistake")
    assert line.startswith("  --config: none is named; those of lora_finetune are ")
    assert line.endswith("; write --config NAME, such as --config lora")


def test_call_without_a_config_still_reports_what_no_config_would_change(tune: Tune) -> None:
    found = tune("lora_finetune", "lora_r=8", "dataset.source=x", "lora.r=3", "batch_size=x")
    assert "4 mistakes" in found.err
    assert "lora_r: no 'lora_r'; write lora.rank" in found.err
    assert "lora.r: no 'r'; write rank" in found.err
    assert "batch_size: expected an int above 0, got 'x'" in found.err


def test_files_that_are_not_there_are_noted(tune: Tune) -> None:
    call = ("validate", "lora_finetune", "--config", "smollm2_135m_lora")
    found = tune(*call, "model_directory=nowhere", "dataset.source=none.json")
    assert found.status == 0
    assert "note: model_directory: nowhere is not there yet" in found.err
    assert "note: dataset.source: none.json is not there yet" in found.err
    assert "tokenizer" not in found.err  # it would lie in the folder that is not there


def test_copy_says_how_to_run_it(tune: Tune, tmp_path: Path) -> None:
    copied = tune("cp", "smollm2_135m_lora", f"{tmp_path}/my.py").out
    assert copied.endswith(f"run: tune lora_finetune --config {tmp_path}/my.py:smollm2_135m_lora\n")
    assert tune("cp", "full_finetune", f"{tmp_path}/r.py").out.endswith(
        "r.py --config full model_directory=DIR dataset.source=rows.jsonl\n"
    )


def test_help_of_a_verb_by_either_word(tune: Tune) -> None:
    assert tune("help", "ls").out == tune("ls", "--help").out


def test_help_names_configs_and_options_and_calls_defaults_so(tune: Tune) -> None:
    text = " ".join(tune("lora_finetune", "--help").out.replace("│", " ").split())
    assert "configs: alpaca_llama2_lora_finetune, smollm2_135m_lora" in text
    assert "(here:" not in text


def test_help_of_a_recipe_lists_each_option_in_a_line_of_its_own(tune: Tune) -> None:
    text = tune("lora_finetune", "--help").out
    for option in RUN_OPTIONS:
        words = [re.escape(word) for word in (*option.shown.split(" "), *option.help.split(" "))]
        assert re.search(r"^  " + r"\s+".join(words) + "$", text, re.MULTILINE)


def test_help_of_a_config_shows_what_is_still_to_be_set_as_required(tune: Tune) -> None:
    found = tune("lora_finetune", "--config", "lora", "--help")
    text = " ".join(found.out.replace("│", " ").split())
    assert (found.status, found.err) == (0, "")
    assert "null: random weights. (required) --tokenizer_directory" in text
    assert "${required}" not in text
    wrong = tune("lora_finetune", "--config", "lora", "--help", "batch_size=xx")
    assert wrong.status == 2
    assert "1 mistake" in wrong.err
    assert "batch_size: expected an int above 0, got 'xx'" in wrong.err


def test_help_says_what_is_wrong_with_the_command_that_it_documents(tune: Tune) -> None:
    found = tune(
        "lora_finetune",
        "--config",
        "smollm2_135m_lora",
        "--help",
        "batch_size=xx",
        "optimizer=torch.optim.SDG",
    )
    assert found.status == 2
    assert "torch.optim has no 'SDG'; did you mean 'torch.optim.SGD'?" in found.err
    assert "batch_size: expected an int above 0, got 'xx'" in found.err
    assert "--lora.rank" in found.out


RECIPE = """
from pathlib import Path
from attrs import define
from torchtune import config


@define(kw_only=True)
class OwnConfig:
    output_dir: Path = Path("run")
    steps: int = 3


@config.parse
def main(cfg: OwnConfig) -> None:
    if cfg.steps == 13:
        Path("none/x").read_text()


def quick() -> OwnConfig:
    return OwnConfig(steps=1)


def slow() -> OwnConfig:
    return OwnConfig(steps=9)
"""


def test_own_recipe_freezes_into_a_path_and_its_configs_are_compared(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchtune.cli import main

    monkeypatch.chdir(tmp_path)
    file = f"own_{tmp_path.name}.py"
    Path(file).write_text(RECIPE)
    assert tune(f"./{file}").status == 0
    assert Path("run/config.yaml").read_text() == "output_dir: run\nsteps: 3\n"
    assert "holds a finished run" in tune(f"./{file}").err
    assert tune("diff", f"{file}:quick", f"{file}:slow").out == "steps: 1 -> 9\n"
    assert tune("diff", "run", f"{file}:slow").out == "steps: 3 -> 9\n"
    capsys.readouterr()
    assert main([f"./{file}", "output_dir=other", "steps=13"]) == 1
    assert f'{file}", line 16, in main' in capsys.readouterr().err
