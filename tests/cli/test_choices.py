"""The message about a component that does not exist suggests valid components for the field."""

from pathlib import Path

import pytest

from tests.cli.test_hints import mistakes
from tests.tune import Tune
from torchtune.config.model import fields, is_component_path
from torchtune.runs import load_recipe
from torchtune.runs._choices import components_of_field, format_components, similar_components

SCHEDULES = "torch.optim.lr_scheduler"
LOGGERS = "torchtune.utils.metric_logging"
SUGGESTIONS = {
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


@pytest.mark.parametrize("override", SUGGESTIONS)
def test_missing_component_is_reported_once_with_a_suggestion(override: str) -> None:
    (message,) = mistakes("lora_finetune", "smollm2_135m_lora", override)
    assert message.endswith(f"; did you mean {SUGGESTIONS[override]}?")


def test_unknown_component_is_reported_with_a_list_if_no_name_is_similar() -> None:
    (message,) = mistakes("lora_finetune", "smollm2_135m_lora", "metric_logger=xyz")
    loggers = ", ".join(f"{LOGGERS}.{name}Logger" for name in ("Disk", "Stdout", "TensorBoard", "WandB"))
    assert message.endswith(
        f"'xyz' is not a dotpath; choose one of {loggers}, or your own package.module.Name"
    )


def test_string_in_a_yaml_component_field_gets_the_same_suggestions(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("_base_: smollm2_135m_lora\noptimizer: AdamW\nlr_scheduler: {_component_: constant}\n")
    optimizer, schedule = mistakes("lora_finetune", str(file))
    assert optimizer.startswith(f"{file}:2: optimizer: expected a component that builds an Optimizer")
    assert optimizer.endswith("got 'AdamW'; did you mean 'torch.optim.AdamW'?")
    assert schedule.startswith(
        f"{file}:3: lr_scheduler: 'constant' is not a dotpath; did you mean 'torchtune"
    )


def test_missing_component_does_not_cause_a_note_about_dropped_arguments(tune: Tune) -> None:
    result = tune("lora_finetune", "--config", "smollm2_135m_lora", "optimizer=adamw")
    assert result.status == 2
    assert "note:" not in result.err


@pytest.mark.parametrize("recipe", ["lora_finetune", "full_finetune", "alpaca_generate"])
def test_every_component_listed_for_a_field_is_valid(recipe: str) -> None:
    config_class = load_recipe(recipe).config_class
    assert config_class is not None
    choices = {name: components_of_field(field.type) for name, field in fields(config_class).items()}
    assert {"model", "tokenizer"} <= {name for name, paths in choices.items() if paths}
    assert all(is_component_path(path) for paths in choices.values() for path in paths)


def test_help_lists_the_components_of_a_field(tune: Tune) -> None:
    text = " ".join(tune("lora_finetune", "--help").out.replace("│", " ").split())
    assert f"{LOGGERS}.TensorBoardLogger, {LOGGERS}.WandBLogger, or your own package.module.Name" in text
    assert "Components: torchtune.formats.hf_decoder, " in text


def test_names_are_compared_without_case_and_underscores() -> None:
    paths = ["torch.a.Linear", "pkg.linear_with_warmup", "pkg.Bilinear"]
    assert similar_components("LINEAR", paths) == ["torch.a.Linear"]
    assert similar_components("line", paths) == ["pkg.linear_with_warmup", "torch.a.Linear", "pkg.Bilinear"]
    assert similar_components("linear-with-warmup-and-decay", paths) == ["pkg.linear_with_warmup"]
    assert similar_components("bilinaer", paths) == ["pkg.Bilinear"]
    assert similar_components("x", paths) == []


def test_long_list_ends_with_the_number_of_omitted_components() -> None:
    paths = [f"torch.T{i}" for i in range(6)] + [f"torchtune.a{i}" for i in range(4)]
    assert format_components(paths).startswith("torchtune.a0, ")
    assert format_components(paths).endswith("torch.T3, 2 others")
