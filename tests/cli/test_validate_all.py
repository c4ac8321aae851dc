"""`tune validate --all FOLDER` validates every config in a folder for its recipe, for example in a user's CI."""

import json
from pathlib import Path

import pytest

from tests.tune import Tune

PYTHON = """
from configs_py.smollm2 import smollm2_135m_full
from recipes.full_finetune import FullFinetuneConfig
from torchtune.training import Lora


def {name}() -> FullFinetuneConfig:
    cfg = smollm2_135m_full()
    cfg.batch_size = {batch_size}
    return cfg


def helper() -> Lora:
    return Lora()


def needs_an_argument(rank: int) -> FullFinetuneConfig:
    return smollm2_135m_full()
"""

RECIPE = """
from attrs import define
from torchtune import config


@define(kw_only=True)
class {name}Config:
    words: int = 3


@config.parse
def main(cfg: {name}Config) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of configs: some valid, some invalid, and one with an unknown recipe."""
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/x.yaml").write_text("nonsense: [\n")
    files = {
        "base.yaml": "_base_: smollm2_135m_lora\nseed: 3\n",
        "sub/over.yaml": "_base_: ../base.yaml\nlora: {rank: 4}\n",
        "comment.yaml": "# recipe: full_finetune\n_base_: smollm2_135m_full\nbatch_sizee: 3\n",
        "lost.yaml": "nothing: 1\n",
        "broken.yaml": "a: [\n",
        f"runs_{tmp_path.name}.py": PYTHON.format(name="of_python", batch_size=0),
        f"own_{tmp_path.name}.py": RECIPE.format(name="Own"),
        "own.yaml": f"# recipe: {tmp_path}/own_{tmp_path.name}.py\nwords: 4\n",
        "recipe_that_fails.py": "from torchtune.config import parse\n@parse\ndef main(a, b): ...\n1 / 0\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.slow
def test_every_config_in_a_folder_is_validated_for_its_recipe(folder: Path, tune: Tune) -> None:
    result = tune("validate", "--all", str(folder))
    assert result.status == 2
    valid = [line.split(": ok")[0].replace(f"{folder}/", "") for line in result.out.splitlines()]
    assert valid == [
        "lora_finetune --config base.yaml",
        f"own_{folder.name}.py --config own.yaml",
        "lora_finetune --config sub/over.yaml",
    ]
    err = result.err.replace(f"{folder}/", "")
    for part in (
        "broken.yaml: 1 mistake in broken.yaml:",
        "full_finetune --config comment.yaml: 1 mistake in the config of full_finetune:",
        "comment.yaml:3: batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?",
        f"full_finetune --config runs_{folder.name}.py:of_python: 1 mistake",
        f"runs_{folder.name}.py:9: batch_size: expected an int above 0, got 0",
        "recipe_that_fails.py:4: ZeroDivisionError: division by zero",
        "lost.yaml: its fields match no recipe; specify the recipe in a comment, `# recipe: lora_finetune`",
    ):
        assert part in err
    assert "helper" not in err
    assert "hidden" not in err


def test_results_for_a_folder_can_be_printed_as_json(folder: Path, tune: Tune) -> None:
    result = tune("validate", "--all", str(folder), "--json")
    assert result.status == 2
    results = {Path(row["config"]).name: row for row in json.loads(result.out)}
    assert results["base.yaml"]["needs"]["parameters"] == 139_399_488
    assert [m["path"] for m in results["comment.yaml"]["mistakes"]] == ["batch_sizee"]
    assert not results["lost.yaml"]["ok"]


def test_result_for_one_config_can_be_printed_as_json(tune: Tune) -> None:
    wrong = tune("validate", "lora_finetune", "--config", "smollm2_135m_lora", "batch_size=0", "--json")
    assert wrong.status == 2
    assert json.loads(wrong.out) == {
        "ok": False,
        "mistakes": [
            {
                "location": "--override batch_size=0",
                "path": "batch_size",
                "kind": "rule",
                "message": "expected an int above 0, got 0",
                "expected": "an int above 0",
                "got": "0",
                "suggestion": "",
            }
        ],
    }


def test_folder_without_configs_is_reported_as_a_mistake(tune: Tune, tmp_path: Path) -> None:
    assert "the folder contains no config" in tune("validate", "--all", str(tmp_path)).err
    assert "no such folder" in tune("validate", "--all", str(tmp_path / "none")).err
