"""Completion: the candidates for an incomplete command line, and the shell scripts that request them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tune import Tune
from torchtune.cli import commands
from torchtune.cli._complete import candidates, split
from torchtune.cli._completion import SCRIPTS
from torchtune.runs import config_names, config_sources, recipe_names

pytestmark = pytest.mark.usefixtures("schemas")

LORA = "tune lora_finetune --config smollm2_135m_lora "


def completions(line: str) -> set[str]:
    args = split(line)
    return {c for c in candidates(args[1:]) if c.startswith(args[-1])}


def test_first_argument_is_a_command_or_a_recipe() -> None:
    assert completions("tune ") == {*commands(), *recipe_names()}
    assert completions("tune lo") == {"lora_finetune"}


def test_completed_configs_belong_to_the_recipe() -> None:
    assert completions("tune lora_finetune --config ") == set(config_names()["lora_finetune"])
    assert completions("tune lora_finetune --config=smol") == {"--config=smollm2_135m_lora"}
    assert completions("tune diff smol") == {name for name in config_sources() if name.startswith("smol")}


def test_completed_keys_include_component_arguments() -> None:
    assert {"optimizer=", "optimizer.lr=", "optimizer.betas=", "output_dir="} <= completions(LORA + "o")
    assert "optimizer.momentum=" not in completions(LORA + "optimizer.")
    assert "optimizer.momentum=" in completions(LORA + "optimizer=torch.optim.SGD optimizer.")
    assert "--lora.rank=" in completions(LORA + "--lora.")
    assert "lora.rank=" in completions("tune show lora_finetune lora.")
    assert completions(LORA + "--override dataset.sou") == {"dataset.source="}


def test_completed_values_are_choices_and_dotpaths() -> None:
    assert completions(LORA + "dtype=") == {"dtype=auto", "dtype=fp32", "dtype=bf16", "dtype=fp16"}
    assert completions(LORA + "shuffle=") == {"shuffle=true", "shuffle=false"}
    assert completions(LORA + "optimizer=torch.optim.Adam") >= {
        "optimizer=torch.optim.Adam",
        "optimizer=torch.optim.AdamW",
    }
    assert "lr_scheduler=null" in completions(LORA + "lr_scheduler=")


def test_keys_are_completed_after_an_open_quote() -> None:
    assert "optimizer.lr=" in completions(LORA + "'output_dir=a b optimizer.l")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_completion_command_prints_the_script_for_a_shell(shell: str, tune: Tune) -> None:
    assert tune("completion", shell).out == SCRIPTS[shell]
    assert tune("completion", "tcsh").status == 2


def run_in_shell(shell: str, script: str, folder: Path, program: str = "-m torchtune.cli") -> list[str]:
    """Run a script in a shell with `tune` on its PATH, and return the output split at white space.

    Args:
        shell: The name of the shell.
        script: The shell script.
        folder: The folder in which the program `tune` is created.
        program: The Python arguments that start `tune`.
    """
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed on this machine")
    tune = folder / "tune"
    tune.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
    tune.chmod(0o755)
    options = {"bash": ["--norc", "--noprofile"], "zsh": ["--no-rcs"], "fish": ["--no-config"]}[shell]
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "HOME": str(folder),
    }
    command = [shell, *options, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=folder)
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tune lora", ["lora_finetune"]),
        (LORA + "dtype=", ["auto", "bf16", "fp16", "fp32"]),
        (LORA + "nothing", []),
    ],
)
def test_bash_completes(line: str, expected: list[str], tmp_path: Path) -> None:
    query = f"COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; _tune; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    assert run_in_shell("bash", f"source <(tune completion bash); {query}", tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [("tune lora", ["--", "lora_finetune"]), (LORA + "lora.al", ["-S", "--", "lora.alpha="])],
)
def test_zsh_completes(line: str, expected: list[str], tmp_path: Path) -> None:
    stubs = "compdef() { :; }; compadd() { print -l -- $@; }; _files() { print files; }"
    script = f"{stubs}; source <(tune completion zsh); LBUFFER={line!r}; _tune"
    assert run_in_shell("zsh", script, tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [("tune lora", ["lora_finetune"]), (LORA + "dtype=", ["dtype=bf16", "dtype=fp16", "dtype=fp32"])],
)
def test_fish_completes(line: str, expected: list[str], tmp_path: Path) -> None:
    assert run_in_shell("fish", f"tune completion fish | source; complete -C {line!r}", tmp_path) == expected
