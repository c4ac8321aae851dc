"""A component that does not exist is answered with those that its field may hold."""

from pathlib import Path

import pytest

from tests.cli.test_hints import mistakes
from tests.tune import Tune
from torchtune.config.model import fields, is_component_path
from torchtune.runs import load_recipe
from torchtune.runs._choices import components_of_field, listed, matching

SCHEDULES = "torch.optim.lr_scheduler"
LOGGERS = "torchtune.utils.metric_logging"
MEANT = {
    "metric_logger=tensorboard": f"'{LOGGERS}.TensorBoardLogger'",
    "metric_logger=wandb": f"'{LOGGERS}.WandBLogger'",
    "metric_logger._component_=disk_logger": f"'{LOGGERS}.DiskLogger'",
    "optimizer=adamw": "'torch.optim.AdamW'",
    "optimizer=adamw_torch": "'torch.optim.AdamW'",
    "optimizer=torch.optim.adamw": "'torch.optim.AdamW'",
    "optimizer=torch.optim.SDG": "'torch.optim.SGD'",
    "lr_scheduler=linear": f"'torchtune.training.linear_with_warmup' or '{SCHEDULES}.LinearLR'",
    "lr_scheduler=torchtune.training.constant": (
        f"'torchtune.training.constant_with_warmup' or '{SCHEDULES}.ConstantLR'"
    ),
    "lr_scheduler=cosine_schedule_with_warmup": "'torchtune.training.cosine_with_warmup'",
    "model=torchtune.models.llama.llama2_7b": "'torchtune.models.llama2.llama2_7b'",
    "dataset=alpaca": "'torchtune.datasets.AlpacaDataset'",
}


@pytest.mark.parametrize("word", MEANT)
def test_component_that_is_not_there_is_one_mistake_that_names_what_is_meant(word: str) -> None:
    (found,) = mistakes("lora_finetune", "smollm2_135m_lora", word)
    assert found.endswith(f"; did you mean {MEANT[word]}?")


def test_component_like_no_other_is_answered_with_what_the_field_may_hold() -> None:
    (found,) = mistakes("lora_finetune", "smollm2_135m_lora", "metric_logger=xyz")
    loggers = ", ".join(f"{LOGGERS}.{name}Logger" for name in ("Disk", "Stdout", "TensorBoard", "WandB"))
    assert found.endswith(
        f"'xyz' is not a dotpath; write one of {loggers}, or package.module.Name of your own"
    )


def test_text_in_the_field_of_a_component_in_yaml_is_answered_in_the_same_way(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("_base_: smollm2_135m_lora\noptimizer: AdamW\nlr_scheduler: {_component_: constant}\n")
    optimizer, schedule = mistakes("lora_finetune", str(file))
    assert optimizer.startswith(f"{file}:2: optimizer: expected a component that builds an Optimizer")
    assert optimizer.endswith("got 'AdamW'; did you mean 'torch.optim.AdamW'?")
    assert schedule.startswith(
        f"{file}:3: lr_scheduler: 'constant' is not a dotpath; did you mean 'torchtune"
    )


def test_no_argument_is_noted_to_be_dropped_for_a_component_that_is_not_there(tune: Tune) -> None:
    found = tune("lora_finetune", "--config", "smollm2_135m_lora", "optimizer=adamw")
    assert found.status == 2
    assert "note:" not in found.err


@pytest.mark.parametrize("recipe", ["lora_finetune", "full_finetune", "alpaca_generate"])
def test_every_choice_of_a_field_can_be_named_in_it(recipe: str) -> None:
    config_class = load_recipe(recipe).config_class
    assert config_class is not None
    choices = {name: components_of_field(field.type) for name, field in fields(config_class).items()}
    assert {"model", "tokenizer"} <= {name for name, paths in choices.items() if paths}
    assert all(is_component_path(path) for paths in choices.values() for path in paths)


def test_help_lists_what_a_field_may_hold(tune: Tune) -> None:
    text = " ".join(tune("lora_finetune", "--help").out.replace("│", " ").split())
    assert f"{LOGGERS}.TensorBoardLogger, {LOGGERS}.WandBLogger, or package.module.Name of your own" in text
    assert "Name a component: torchtune.formats.hf_decoder, " in text


def test_words_are_compared_without_case_and_underscores() -> None:
    paths = ["torch.a.Linear", "pkg.linear_with_warmup", "pkg.Bilinear"]
    assert matching("LINEAR", paths) == ["torch.a.Linear"]
    assert matching("line", paths) == ["pkg.linear_with_warmup", "torch.a.Linear", "pkg.Bilinear"]
    assert matching("linear-with-warmup-and-decay", paths) == ["pkg.linear_with_warmup"]
    assert matching("bilinaer", paths) == ["pkg.Bilinear"]
    assert matching("x", paths) == []


def test_long_list_gives_the_number_of_those_that_it_leaves_out() -> None:
    paths = [f"torch.T{i}" for i in range(6)] + [f"torchtune.a{i}" for i in range(4)]
    assert listed(paths).startswith("torchtune.a0, ")
    assert listed(paths).endswith("torch.T3, 2 others")
