"""A new recipe and config are registered with `tune` and run, as in the last sections of the config tutorial."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RECIPE = '''"""Counts to a number."""

from torchtune import config


@config.parse
def main(cfg):
    dataset = config.instantiate(cfg.dataset)
    print(f"{cfg.greeting} {cfg.count} {dataset.keep}")


if __name__ == "__main__":
    main()
'''

COMPONENT = """from torch.utils.data import Dataset

class MyDataset(Dataset):
    def __init__(self, keep: int) -> None:
        self.keep = keep
"""

CONFIG = """# My first run.
greeting: hello ${count}
count: 3
dataset:
  _component_: my_parts.MyDataset
  keep: 7
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a copy of the project with a recipe and a config added, as in the tutorial."""
    for name in ("torchtune", "recipes", "configs_py", "configs_yaml"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "recipes/my_recipe.py").write_text(RECIPE)
    (tmp_path / "configs_yaml/my_config.yaml").write_text(CONFIG)
    (tmp_path / "my_parts.py").write_text(COMPONENT)
    lists = tmp_path / "recipes/__init__.py"
    lists.write_text(
        lists.read_text()
        .replace('"alpaca_generate"]', '"alpaca_generate", "my_recipe"]')
        .replace("_CONFIG_LISTS = {", '_CONFIG_LISTS = {\n    "my_recipe": ["my_config"],')
    )
    return tmp_path


def run(clone: Path, *args: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    call = [sys.executable, *args]
    result = subprocess.run(call, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_registered_recipe_and_config_are_listed_validated_and_run(clone: Path) -> None:
    text = run(clone, "-m", "torchtune.cli", "ls", "my_recipe")
    assert "Counts to a number." in text
    assert "my_config  My first run." in text
    call = ("--config", "my_config", "--allow", "my_parts", "--override", "count=4", "dataset.keep=9")
    assert run(clone, "-m", "torchtune.cli", "validate", "my_recipe", *call) == "ok\n"
    assert run(clone, "-m", "torchtune.cli", "my_recipe", *call) == "hello 4 4 9\n"
    assert run(clone, "recipes/my_recipe.py", *call) == "hello 4 4 9\n"


def test_module_next_to_the_yaml_is_not_imported_without_permission(clone: Path) -> None:
    call = [sys.executable, "-m", "torchtune.cli", "my_recipe", "--config", "my_config"]
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    result = subprocess.run(call, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "add --allow my_parts" in result.stderr
