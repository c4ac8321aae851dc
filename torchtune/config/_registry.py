"""Recipes and configs by name: `recipes/__init__.py` lists them, `configs_py/` and `configs_yaml/` hold them.

Nothing here imports a recipe or a config: names, files, lines and docstrings are read from the source.
"""

import ast
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torchtune.config._mistakes import ConfigError, Mistake, did_you_mean
from torchtune.config._own_packages import folder_of


class Source(NamedTuple):
    """Where a recipe or config is defined."""

    name: str
    file: str
    line: int = 1
    doc: str = ""
    """The first line of its docstring."""


def recipe_names() -> Sequence[str]:
    """Return the registered recipes."""
    names: Sequence[str] = _lists()._RECIPE_LIST  # noqa: SLF001 -- the specification's name
    return names


def config_names() -> Mapping[str, Sequence[str]]:
    """Return the names of every recipe's configs."""
    lists: Mapping[str, Sequence[str]] = _lists()._CONFIG_LISTS  # noqa: SLF001 -- the specification's name
    return lists


def _lists() -> Any:
    """Return `recipes/__init__.py`."""
    return importlib.import_module("torchtune.recipes")


def recipe_source(name: str) -> Source:
    """Return a registered recipe's file, and its docstring's first line.

    Raises:
        ConfigError: There is no recipe of this name.
    """
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    file = os.path.join(folder_of("recipes"), f"{name}.py")  # noqa: PTH118 -- pathlib costs `tune ls` a tenth
    module = _parse(file)
    mains = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    doc = ast.get_docstring(module) or next(filter(None, map(ast.get_docstring, mains)), None)
    return Source(name, file, 1, _first_line(doc))


def config_source(name: str) -> Source:
    """Return where a registered config is defined: its `def` in `configs_py`, or its file in `configs_yaml`.

    Raises:
        ConfigError: There is no config of this name.
    """
    found = config_sources()
    if name in found:
        return found[name]
    raise unknown_name("config", name, found)


def config_sources() -> dict[str, Source]:
    """Return every config that a recipe lists, by name."""
    python = _python_configs()
    listed = dict.fromkeys(name for names in config_names().values() for name in names)
    return {name: python.get(name) or _yaml_config(name) for name in listed}


def _python_configs() -> dict[str, Source]:
    folder = folder_of("configs_py")
    found: dict[str, Source] = {}
    for entry in sorted(os.listdir(folder)):  # noqa: PTH208 -- see above
        if entry.endswith(".py") and not entry.startswith("_"):
            file = os.path.join(folder, entry)  # noqa: PTH118
            for node in _parse(file).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    found[node.name] = Source(
                        node.name, file, node.lineno, _first_line(ast.get_docstring(node))
                    )
    return found


def _yaml_config(name: str) -> Source:
    """Return a config that exists as YAML only; its first comment line is its documentation."""
    file = os.path.join(folder_of("configs_yaml"), f"{name}.yaml")  # noqa: PTH118
    try:
        with open(file, encoding="utf-8") as stream:  # noqa: PTH123
            lines = (line for line in stream if not line.startswith("# yaml-language-server:"))
            first = next(lines, "")
    except OSError:
        first = ""
    return Source(name, file, 1, first.removeprefix("#").strip() if first.startswith("#") else "")


def _parse(file: str) -> ast.Module:
    with open(file, encoding="utf-8") as stream:  # noqa: PTH123
        return ast.parse(stream.read(), file)


def _first_line(doc: str | None) -> str:
    return doc.strip().splitlines()[0] if doc else ""


def unknown_name(kind: str, name: str, known: Sequence[str] | Mapping[str, object]) -> ConfigError:
    """Return the error for a name that is not registered, with the nearest."""
    listed = ", ".join(known) or "none"
    beside = f"; did you mean the file './{name}.py'?" if os.path.isfile(f"{name}.py") else ""  # noqa: PTH113
    near = beside or did_you_mean(name, known)
    message = f"no {kind} {name!r}{near or f'; there is {listed}; or give the path of a file'}"
    return ConfigError([Mistake("", "", message)], f"the name of a {kind}")
