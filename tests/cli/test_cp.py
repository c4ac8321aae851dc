"""`tune cp` writes complete, formatted copies that equal the original and can be run by path."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.cli._excerpt import excerpt
from torchtune.runs import config_names, recipe_source

CONFIGS = [(recipe, name) for recipe, names in config_names().items() for name in names]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("recipe", "name"), CONFIGS)
@pytest.mark.parametrize("ending", ["py", "yaml"])
def test_copied_config_is_valid_and_equals_the_original(
    recipe: str, name: str, ending: str, tune: Tune, tmp_path: Path
) -> None:
    path = f"{tmp_path}/copy_of_{name}.{ending}"
    assert tune("cp", name, path).status == 0
    assert tune("validate", recipe, "--config", path).out == tune("validate", recipe, "--config", name).out
    assert tune("diff", name, path).out == "no differences\n"


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("recipe", "names"), config_names().items())
def test_original_configs_are_valid_for_a_copied_recipe(
    recipe: str, names: list[str], tune: Tune, tmp_path: Path
) -> None:
    path = f"{tmp_path}/copied_{recipe}.py"
    assert tune("cp", recipe, path).status == 0
    assert Path(path).read_text() == Path(recipe_source(recipe).file).read_text()
    for name in names:
        overrides = [] if name not in ("lora", "full") else ["model_directory=x", "dataset.source=x.json"]
        assert tune("validate", path, "--config", name, *overrides).out.startswith("ok")


@pytest.mark.parametrize(
    ("recipe", "config"),
    [
        ("lora_finetune", "lora model_directory=DIR dataset.source=rows.jsonl"),
        ("full_finetune", "full model_directory=DIR dataset.source=rows.jsonl"),
        ("alpaca_generate", "generate model_directory=DIR"),
    ],
)
def test_printed_command_runs_a_copied_recipe_with_the_config_for_any_model(
    recipe: str, config: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copied = tune("cp", recipe, f"{recipe}_2.py").out
    assert copied == f"copied {recipe} to {recipe}_2.py; run: tune ./{recipe}_2.py --config {config}\n"
    call = [arg.replace("DIR", "models/none") for arg in config.split()]
    assert tune("validate", f"./{recipe}_2.py", "--config", *call).out.startswith("ok")


def test_copies_are_formatted(tune: Tune, tmp_path: Path) -> None:
    for _, name in CONFIGS:
        tune("cp", name, f"{tmp_path}/{name}.py")
    call = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "110", str(tmp_path)]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


SOURCE = '''"""Runs."""

from __future__ import annotations

import os  # not needed
import math as m
from collections.abc import (
    Mapping,
    Sequence,
)

from torchtune.config import lazy, nested, ref

# The folder of all runs.
FOLDER = "runs"
"""Where runs go."""
UNUSED = FOLDER + "x"


def base() -> "Mapping[str, int]":
    """The base."""
    # Why it is so.
    return make({"a": 1})


def make(values, rate=m.pi):
    return lazy(dict, **values, folder=FOLDER)  # a comment


# Above the variant.
@staticmethod
def variant(other: ref = None):
    """A variant."""
    cfg = base()
    return cfg


class Never: ...
'''

EXPECTED = '''from __future__ import annotations

import math as m
from collections.abc import Mapping

from torchtune.config import lazy, ref

# The folder of all runs.
FOLDER = "runs"
"""Where runs go."""


def base() -> "Mapping[str, int]":
    """The base."""
    # Why it is so.
    return make({"a": 1})


def make(values, rate=m.pi):
    return lazy(dict, **values, folder=FOLDER)  # a comment


# Above the variant.
@staticmethod
def variant(other: ref = None):
    """A variant."""
    cfg = base()
    return cfg
'''


def test_excerpt_contains_only_a_function_and_its_dependencies_with_comments() -> None:
    assert excerpt(SOURCE, "variant") == EXPECTED


def test_excerpt_of_a_function_without_dependencies_is_only_the_function() -> None:
    assert excerpt("import os\n\n\ndef f():\n    return 1\n\n\ndef g():\n    return os\n", "f") == (
        "def f():\n    return 1\n"
    )
