"""Registered recipes and configs: `recipes/__init__.py` lists them, `configs_py/` and `configs_yaml/` define them.

This module imports no recipe or config: names, files, lines and docstrings are read from the source.
"""

import ast
import functools
import importlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from torchtune._bundled_packages import folder_of
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import did_you_mean


class Source(NamedTuple):
    """The location of a recipe's or config's definition."""

    name: str
    file: str
    doc: str = ""
    """The first line of the docstring."""


def recipe_names() -> Sequence[str]:
    """Return the registered recipes."""
    return list(_registry()._RECIPE_LIST)  # noqa: SLF001 -- the name is fixed


def config_names() -> Mapping[str, Sequence[str]]:
    """Return the names of the configs of every recipe, by recipe."""
    return dict(_registry()._CONFIG_LISTS)  # noqa: SLF001 -- the name is fixed


def _registry() -> Any:
    """Return the module of `recipes/__init__.py`."""
    return importlib.import_module("torchtune.recipes")


def recipe_file(name: str) -> str:
    """Return a registered recipe's file.

    Raises:
        ConfigError: There is no recipe with this name.
    """
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    return os.path.join(folder_of("recipes"), f"{name}.py")  # noqa: PTH118 -- pathlib would slow `tune ls` by 10%


def recipe_source(name: str) -> Source:
    """Return a registered recipe's file, and its docstring's first line.

    Raises:
        ConfigError: There is no recipe with this name.
    """
    file = recipe_file(name)
    module = syntax_tree(file)
    mains = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    doc = _first_line(module) or next(filter(None, map(_first_line, mains)), "")
    return Source(name, file, doc)


def config_source(name: str) -> Source:
    """Return the source of a registered config: its function in `configs_py`, or its file in `configs_yaml`.

    Raises:
        ConfigError: There is no config with this name.
    """
    sources = config_sources()
    if name in sources:
        return sources[name]
    raise unknown_name("config", name, sources)


def config_sources() -> dict[str, Source]:
    """Return the sources of all registered configs, by name."""
    python = _python_configs()
    names = dict.fromkeys(name for names in config_names().values() for name in names)
    return {name: python.get(name) or _yaml_config(name) for name in names}


def _python_configs() -> dict[str, Source]:
    folder = folder_of("configs_py")
    sources: dict[str, Source] = {}
    for entry in sorted(os.listdir(folder)):  # noqa: PTH208 -- see above
        if entry.endswith(".py") and not entry.startswith("_"):
            file = os.path.join(folder, entry)  # noqa: PTH118
            for node in syntax_tree(file).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    sources[node.name] = Source(node.name, file, _first_line(node))
    return sources


def _yaml_config(name: str) -> Source:
    """Return the source of a config defined only in YAML; its first comment line is its documentation."""
    file = os.path.join(folder_of("configs_yaml"), f"{name}.yaml")  # noqa: PTH118
    first = ""
    with suppress(OSError), open(file, encoding="utf-8") as stream:  # noqa: PTH123
        first = next((line for line in stream if not line.startswith("# yaml-language-server:")), "")
    return Source(name, file, first.removeprefix("#").strip() if first.startswith("#") else "")


def syntax_tree(file: str) -> ast.Module:
    """Return the cached syntax tree of a Python file; callers must not modify it.

    Raises:
        OSError: The file cannot be read.
        SyntaxError: The file is not valid Python.
    """
    with open(file, encoding="utf-8") as stream:  # noqa: PTH123
        return _parsed(stream.read(), file)


@functools.lru_cache(maxsize=64)
def _parsed(text: str, file: str) -> ast.Module:
    return ast.parse(text, file)


def _first_line(node: ast.Module | ast.FunctionDef) -> str:
    """Return the first line of a docstring, uncleaned: cleaning would import `inspect` and slow `tune ls` by 10%."""
    return (ast.get_docstring(node, clean=False) or "").strip().partition("\n")[0]


def unknown_name(kind: str, name: str, registered: Sequence[str] | Mapping[str, object]) -> ConfigError:
    """Return the error for a name that is not registered, with an alternative or a similar name."""
    from torchtune.runs._alternatives import alternative_for

    names = ", ".join(registered) or "none"
    file_hint = f"did you mean the file './{name}.py'?" if os.path.isfile(f"{name}.py") else ""  # noqa: PTH113
    alternative = ": ".join(alternative_for(name) or ())
    suggestion = (
        file_hint
        or alternative
        or did_you_mean(name, registered)
        or f"choose one of {names}, or pass the path of a file"
    )
    return ConfigError([Mistake("argument", f"no {kind} {name!r}", suggestion)], f"the name of a {kind}")
