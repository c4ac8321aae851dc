"""`tune` runs no code from an untrusted working folder, on one rank or on two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RECIPE = '''"""Prints the location of torch."""

import sys

from torchtune import config


@config.parse
def main(cfg):
    import torch

    sys.stdout.write(f"torch of {torch.__file__}\\n")  # one write, because two ranks share stdout
    config.instantiate(cfg.model)
'''

SHADOWS = (
    "torch",
    "attrs",
    "attr",
    "cattrs",
    "yaml",
    "recipes",
    "configs_py",
    "tyro",
    "json",
    "evil",
    "sitecustomise",
)

# Dotpaths in an untrusted YAML file, each with the reason for its rejection.
REJECTED = {
    "os.system": "'os' is in the standard library",
    "torchtune.datasets.os.system": "has no 'os'",
    "torchtune.generation.torch.hub.load": "has no 'torch'",
    "builtins.eval": "'builtins' is in the standard library",
    "torch.hub.load": "in torch, only",
    "torch.load": "in torch, only",
    "torch.utils.cpp_extension.load": "in torch, only",
    "torch.ops.load_library": "in torch, only",
    "torch.nn.modules.module.torch.load": "is not allowed",
    "recipes.full_finetune.main": "is not allowed",
    "torchtune.formats.convert": "",
    "torchtune.cli.main": "torchtune.cli contains no components",
    "torchtune.runs.folder_of": "torchtune.runs contains no components",
    "evil.run": "'evil' is not trusted",
    "torchtune.formats.gguf._open.convert": "is private",
    "torchtune.utils._x.y": "is private",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an untrusted folder whose modules leave a trace file when they are imported."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for name in SHADOWS:
        (stranger / f"{name}.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'a').write({name!r})\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/own_recipe.py").write_text(RECIPE)
    return stranger


def tune(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `tune` in a process with the untrusted folder as its working folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TUNE_ALLOW": ""}
    call = [sys.executable, "-m", "torchtune.cli", *args]
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["../own/own_recipe.py", "full_finetune"])
def test_names_in_untrusted_yaml_are_neither_imported_nor_run(recipe: str, folder: Path) -> None:
    lines = [f"x{i}: {{_component_: {path}}}" for i, path in enumerate(REJECTED)]
    if recipe == "full_finetune":  # typed fields; importing torch for every case would be slow
        lines = [
            "_base_: smollm2_135m_full",
            "model: {_component_: evil.run}",
            "optimizer: {_component_: os.system}",
        ]
    (folder / "my.yaml").write_text("\n".join(lines) + "\n")
    result = tune(folder, "validate", recipe, "--config", "my.yaml")
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder.parent / "trace").exists()
    lines = [line for line in result.stderr.splitlines() if line.startswith("  ")]
    assert len(lines) == (2 if recipe == "full_finetune" else len(REJECTED)), result.stderr
    if recipe != "full_finetune":
        for i, (line, (path, reason)) in enumerate(zip(lines, REJECTED.items(), strict=True)):
            assert line.startswith(f"  my.yaml:{i + 1}: x{i}: ")
            assert path.split(".", maxsplit=1)[0] in line
            assert reason in line


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_torch_module_next_to_the_yaml_does_not_shadow_torch(ranks: int, folder: Path) -> None:
    (folder / "my.yaml").write_text("output_dir: out\nmodel: {_component_: torch.nn.Identity}\n")
    launch = [] if ranks == 1 else ["--nproc_per_node", "2"]
    result = tune(folder, *launch, "../own/own_recipe.py", "--config", "my.yaml")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("torch of ") == ranks
    assert str(folder) not in result.stdout
    assert not (folder.parent / "trace").exists()
