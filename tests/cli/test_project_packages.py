"""A user's project may have packages with the same names as torchtune's `recipes` and `configs_py`."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchtune._bundled_packages import shadowing_hint

ROOT = Path(__file__).resolve().parents[2]

FILES = {
    "recipes/__init__.py": "",
    "recipes/toppings.py": '''"""Toppings for a cake."""

import torch


class Topping(torch.nn.Module):
    def __init__(self, name: str = "cream") -> None:
        super().__init__()
        self.name = name


def baked(topping):
    return f"{topping.name} in {__name__}"
''',
    "recipes/cake.py": '''"""Bake a cake."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from attrs import define
from recipes.toppings import Topping, baked

from torchtune import config
from torchtune.config import Component, lazy
from torchtune.recipes.lora_finetune import LoraFinetuneConfig
from torchtune.recipes.lora_finetune import main as fine_tune


@define(kw_only=True)
class CakeConfig:
    output_dir: str
    topping: Component[Topping] = lazy(Topping)
    in_a_process: bool = False


@config.parse
def main(cfg: CakeConfig) -> None:
    topping = config.instantiate(cfg.topping)
    assert fine_tune.config_class is LoraFinetuneConfig
    if cfg.in_a_process:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            print(pool.submit(baked, topping).result())
    else:
        print(baked(topping) + "\\n", end="")


if __name__ == "__main__":
    main()
''',
    "configs_py/__init__.py": "",
    "configs_py/cakes.py": """from recipes.cake import CakeConfig
from recipes.toppings import Topping

from torchtune.config import lazy
from torchtune.configs_py.smollm2 import smollm2_135m_lora
from torchtune.recipes.lora_finetune import LoraFinetuneConfig


def cake() -> CakeConfig:
    return CakeConfig(output_dir="runs/cake", topping=lazy(Topping, name="cherries"))


def fine_tuned() -> LoraFinetuneConfig:
    cfg = smollm2_135m_lora()
    assert type(cfg) is LoraFinetuneConfig
    cfg.batch_size = 3
    return cfg
""",
    "cake.yaml": "output_dir: runs/yaml\ntopping: {_component_: recipes.toppings.Topping, name: nuts}\n",
    "mine.yaml": "_base_: smollm2_135m_lora\nbatch_size: 5\n",
    "bin/tune": """import sys

from torchtune.cli import run

if __name__ == "__main__":
    sys.exit(run())
""",
    "bake.py": """from configs_py.cakes import cake, fine_tuned
from recipes.cake import main

import recipes
import torchtune.recipes
from torchtune import config
from torchtune.recipes import full_finetune

assert recipes is not torchtune.recipes
assert full_finetune.FullFinetuneConfig.__module__ == "torchtune.recipes.full_finetune"
assert fine_tuned().batch_size == 3
config.allow("recipes")  # a dotpath in the config refers to it
main(cake())
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def environment(project: Path, first: str) -> dict[str, str]:
    """Return an environment whose PYTHONPATH starts with torchtune (as for `tune`) or the project (as for a script)."""
    folders = [ROOT] if first == "torchtune" else [project, ROOT]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONSAFEPATH": "1"}


def run(project: Path, first: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = environment(project, first)
    call = [sys.executable, *args]
    return subprocess.run(
        call, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=300
    )


def tune(project: Path, first: str, *args: str) -> str:
    result = run(project, first, "bin/tune", *args)
    assert result.returncode == 0, result.stderr
    return result.stdout


FIRST = pytest.mark.parametrize("first", [pytest.param("torchtune", marks=pytest.mark.slow), "project"])


@pytest.mark.slow
@FIRST
def test_registered_configs_are_listed_and_can_be_a_base(first: str, project: Path) -> None:
    assert "smollm2_135m_lora" in tune(project, first, "ls")
    assert tune(project, first, "validate", "lora_finetune", "--config", "mine.yaml").startswith("ok")


@pytest.mark.slow
@FIRST
def test_project_recipe_runs_with_its_config_and_imports_torchtune_recipes(first: str, project: Path) -> None:
    call = ["recipes/cake.py", "--config", "configs_py/cakes.py:cake"]
    assert tune(project, first, *call) == "cherries in recipes.toppings\n"
    assert "_component_: recipes.toppings.Topping" in (project / "runs/cake/config.yaml").read_text()


@pytest.mark.slow
@FIRST
def test_yaml_can_use_components_of_the_project_package(first: str, project: Path) -> None:
    call = ["recipes/cake.py", "--config", "cake.yaml", "in_a_process=true"]
    assert tune(project, first, *call) == "nuts in recipes.toppings\n"


@pytest.mark.slow
@FIRST
def test_registered_recipe_accepts_a_config_of_the_project_package(first: str, project: Path) -> None:
    call = ["lora_finetune", "--config", "configs_py/cakes.py:fine_tuned"]
    assert "batch_size: 3\n" in tune(project, first, "export", *call)


@pytest.mark.slow
@FIRST
def test_all_project_configs_are_found_and_validated(first: str, project: Path) -> None:
    result = run(project, first, "bin/tune", "validate", "--all", ".")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert sum(" ok" in line for line in lines) == 4, result.stdout


@pytest.mark.slow
def test_project_script_imports_both_packages(project: Path) -> None:
    result = run(project, "project", "bake.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "cherries in recipes.toppings\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("recipes.lora_finetune", "torchtune's module is torchtune.recipes.lora_finetune"),
        ("configs_py.smollm2", "torchtune's module is torchtune.configs_py.smollm2"),
        ("recipes.cake", ""),
        ("attrs", ""),
    ],
)
def test_shadowed_module_is_suggested_under_its_torchtune_name(name: str, hint: str) -> None:
    assert shadowing_hint(ModuleNotFoundError(f"No module named {name!r}", name=name)) == hint


@pytest.mark.slow
def test_another_projects_package_is_not_trusted_because_of_its_name(project: Path) -> None:
    (project / "stranger.yaml").write_text(
        "_base_: smollm2_135m_lora\nmodel: {_component_: recipes.toppings.Topping}\n"
    )
    call = ["bin/tune", "validate", "lora_finetune", "--config", "stranger.yaml"]
    result = run(project, "project", *call)
    assert result.returncode == 2
    reason = "'recipes' is a package of another project, not torchtune.recipes"
    assert f"{reason}; if you trust its code, add --allow recipes" in result.stderr


@pytest.mark.slow
@FIRST
def test_project_recipe_runs_on_two_ranks(first: str, project: Path) -> None:
    call = ["--nproc_per_node", "2", "recipes/cake.py", "--config", "configs_py/cakes.py:cake"]
    assert tune(project, first, *call) == "cherries in recipes.toppings\n" * 2


@pytest.mark.parametrize("package", ["recipes", "configs_py"])
def test_every_stub_has_the_name_of_an_existing_module(package: str) -> None:
    stubs = {stub.stem for stub in (ROOT / "torchtune" / package).glob("*.pyi")}
    assert len(stubs) >= 4
    assert stubs <= {file.stem for file in (ROOT / package).glob("*.py")}


def test_both_names_of_a_package_import_the_same_module() -> None:
    import recipes.lora_finetune
    import torchtune.recipes.lora_finetune
    from torchtune import configs_py

    assert torchtune.recipes.lora_finetune is recipes.lora_finetune
    assert recipes.lora_finetune.__spec__ is not None
    assert recipes.lora_finetune.__spec__.name == "recipes.lora_finetune"
    assert configs_py.__name__ == "configs_py"
    with pytest.raises(ModuleNotFoundError, match=r"torchtune\.recipes\.cake"):
        importlib.import_module("torchtune.recipes.cake")
