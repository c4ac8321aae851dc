"""Every registered config equals its golden rendering in configs_yaml/, so a changed default is noticed."""

from pathlib import Path
from typing import Any

import pytest

from tests.tune import Tune
from torchtune.config import load, render
from torchtune.runs import config_names, config_source, folder_of, load_module, load_recipe

NAMES = [(recipe, name) for recipe, names in config_names().items() for name in names]


REQUIRED = ["model_directory=models/SmolLM2-135M-Instruct", "dataset.source=demo/assistant.json"]
REQUIRED_OVERRIDES = {"lora": REQUIRED, "full": REQUIRED}
"""Overrides that set the required fields of the configs for any model."""


def config(name: str) -> Any:
    return getattr(load_module(config_source(name).file), name)()


def test_every_recipe_has_configs() -> None:
    assert len(NAMES) >= 6
    assert all(config_names().values())


@pytest.mark.parametrize(("recipe", "name"), NAMES)
def test_rendering_is_up_to_date_and_loads_as_an_equal_config(
    recipe: str, name: str, request: pytest.FixtureRequest
) -> None:
    golden = Path(folder_of("configs_yaml")) / f"{name}.yaml"
    cfg = config(name)
    text = f"# yaml-language-server: $schema=schemas/{recipe}.json\n{render(cfg)}"
    if request.config.getoption("--update-configs"):
        golden.write_text(text, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == text, "run: make configs"
    config_class = load_recipe(recipe).config_class
    assert config_class is not None
    loaded: Any = load(text, config_class)
    assert loaded == cfg
    assert text.endswith(render(loaded))


def test_every_rendering_belongs_to_a_config() -> None:
    files = {path.stem for path in Path(folder_of("configs_yaml")).glob("*.yaml")}
    assert files == {name for _, name in NAMES}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("recipe", "name"), NAMES)
def test_config_validates_without_weights_or_gpu(recipe: str, name: str, tune: Tune) -> None:
    # The parameter count follows `ok`. The configs for any model read it from the model folder, if that exists.
    fits_any_model = name in (*REQUIRED_OVERRIDES, "generate")
    expected = "ok\n" if fits_any_model and not Path("models/SmolLM2-135M-Instruct").exists() else "ok: "
    overrides = REQUIRED_OVERRIDES.get(name, [])
    assert tune("validate", recipe, "--config", name, *overrides).out.startswith(expected)
    yaml = str(Path(folder_of("configs_yaml")) / f"{name}.yaml")
    assert tune("validate", recipe, "--config", yaml, *overrides).out.startswith(expected)


def test_command_line_of_the_specification_is_valid(tune: Tune) -> None:
    overrides = [
        "model_directory=/home/my_model_checkpoint",
        "tokenizer_directory=/home/my_tokenizer_checkpoint",
    ]
    args = [
        "full_finetune",
        "--config",
        "alpaca_llama2_full_finetune",
        "--override",
        *overrides,
        "device=cuda",
    ]
    assert tune("validate", *args).out.startswith("ok: 6,738,415,616 parameters")
    assert "/home/my_tokenizer_checkpoint/tokenizer.model" in tune("show", *args).out


def test_llama2_configs_have_the_fields_of_the_specification() -> None:
    for _, name in NAMES:
        if "llama2" in name:
            cfg = config(name)
            assert cfg.device == "cuda"
            assert cfg.dtype == "bf16"
            assert cfg.model_directory is not None
            assert cfg.tokenizer_directory is not None
    full = config("alpaca_llama2_full_finetune")
    assert full.enable_fsdp is True
    assert full.shuffle is True
    assert full.optimizer.func.__name__ == "AdamW"
