"""`tune diff`: two configs, leaf by leaf: registered names, YAML files, or run folders."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from torchtune.config import (
    ABSENT,
    ConfigError,
    Mistake,
    config_source,
    differences,
    folder_of,
    read_yaml,
    render_yaml,
)

HELP = """\
usage: tune diff A B

Compares two configs leaf by leaf. Each is a registered config, a YAML file, or a run's folder.

  tune diff smollm2_135m_lora runs/monday
"""


def main(argv: Sequence[str]) -> int:
    """Compare two configs; exit status 0, whether they differ or not."""
    if "-h" in argv or "--help" in argv:
        sys.stdout.write(HELP)
        return 0
    if len(argv) != 2:
        sys.stderr.write(f"tune diff takes two configs\n{HELP}")
        return 2
    left, right = (tree_of(name) for name in argv)
    found = differences(left, right)
    for path, a, b in found:
        sys.stdout.write(f"{path}: {_shown(a)} -> {_shown(b)}\n")
    if not found:
        sys.stdout.write("no difference\n")
    return 0


def tree_of(name: str) -> Any:
    """Return a config's tree, a registered one's from its rendering.

    Raises:
        ConfigError: There is no such config.
    """
    if os.path.isdir(name):  # noqa: PTH112 -- pathlib costs this verb a tenth of its time
        file = os.path.join(name, "config.yaml")  # noqa: PTH118
    elif name.endswith((".yaml", ".yml")):
        file = name
    else:
        file = os.path.join(folder_of("configs_yaml"), f"{config_source(name).name}.yaml")  # noqa: PTH118
    document = read_yaml(file)
    if document.mistakes:
        raise ConfigError(document.mistakes, file)
    if not isinstance(document.value, dict):
        raise ConfigError([Mistake(file, "", "holds no config, a mapping of fields to values")], file)
    return document.value


def _shown(value: Any) -> str:
    return "(absent)" if value is ABSENT else render_yaml(value).removesuffix("\n...\n").strip()
