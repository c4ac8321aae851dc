"""Given invalid input, a `tune` process prints one list of mistakes without a traceback and exits with status 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config import sample

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(Path(sample.__file__))

CASES = {
    "yaml": (
        ["validate", RECIPE, "--config", "my.yaml"],
        [
            "my.yaml: output_dir: required",
            "my.yaml:1: batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?",
        ],
    ),
    "python": (
        ["validate", RECIPE, "--config", "mine.py:run"],
        ["mine.py:4: optimizer.lrr: tests.config.sample.Adam has no argument 'lrr'; did you mean 'lr'?"],
    ),
    "overrides": (
        ["validate", RECIPE, "output_dir=x", "--batch_size", "four", "--override", "shuffle=yes", "seed.x=1"],
        [
            "--override batch_size=four: batch_size: expected an int above 0, got 'four'",
            "--override shuffle=yes: shuffle: expected true or false, got 'yes'",
            "--override seed.x=1: seed.x: seed is a single value; it has no 'x'",
        ],
    ),
    "run": ([RECIPE, "output_dir=x", "dtype=fp64"], ["dtype: expected one of 'fp32', 'bf16', got 'fp64'"]),
    "ranks": (
        ["--nproc_per_node", "2", RECIPE, "output_dir=x", "epochs=0"],
        ["epochs: expected an int above 0"],
    ),
    "invalid number of ranks": (
        ["--nproc_per_node", "two", RECIPE, "output_dir=x"],
        [
            "--nproc_per_node two: Unsupported nproc_per_node value: two; options before the recipe go to torchrun"
        ],
    ),
    "zero ranks": (["--nproc_per_node", "0", RECIPE, "output_dir=x"], ["--nproc_per_node 0: "]),
    "config before the recipe": (
        ["--config", "my.yaml", RECIPE, "output_dir=x"],
        ["my.yaml:1: batch_sizee: unknown field 'batch_sizee'; did you mean 'batch_size'?"],
    ),
    "option given twice": (
        ["validate", RECIPE, "--config", "my.yaml", "--config", "none.yaml", "output_dir=x", "batch_sizee=3"],
        [
            "--config none.yaml: --config is given twice",
            "my.yaml:1: batch_sizee: unknown field 'batch_sizee'",
            "--override batch_sizee=3: batch_sizee: unknown field 'batch_sizee'",
        ],
    ),
    "not UTF-8": (["validate", RECIPE, "output_dir=\udcff"], []),
    "recipe": (
        ["full_finetun", "--config", "x"],
        ["no recipe 'full_finetun'; did you mean 'full_finetune'?"],
    ),
    "config": (["lora_finetune", "--config", "smollm2_135m_lor"], ["did you mean 'smollm2_135m_lora'?"]),
    "script": (["epochs=0", "output_dir=x"], ["--override epochs=0: epochs: expected an int above 0, got 0"]),
}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", CASES)
def test_invalid_input_exits_with_status_2_and_a_list_of_mistakes(name: str, tmp_path: Path) -> None:
    args, parts = CASES[name]
    (tmp_path / "my.yaml").write_text("batch_sizee: 4\n")
    (tmp_path / "mine.py").write_text(
        "from tests.config.sample import Adam, Config\nfrom torchtune.config import lazy\ndef run() -> Config:\n"
        "    return Config(output_dir='x', optimizer=lazy(Adam, lrr=1))\n"
    )
    program = ["-m", "torchtune.cli"]
    if name == "script":
        (tmp_path / "script.py").write_text("from tests.config.sample import main\nmain()\n")
        program = ["script.py"]
    result = subprocess.run(
        [sys.executable, *program, *args],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TUNE_ALLOW": "tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    if name == "not UTF-8":
        assert result.stderr == "tune: 'output_dir=\\udcff' is not UTF-8 text\n"
        return
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"{len(parts)} mistake"), result.stderr
    for line, part in zip(lines[1:], parts, strict=True):
        assert part in line
    assert not (tmp_path / "x").exists()
