"""Configs as trees for comparing, where they have to be imported for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchtune.cli._call import Call, layers_of, load_recipe, read_call
from torchtune.cli._folder import functions_returning
from torchtune.config import (
    ConfigError,
    Mistake,
    Recipe,
    allow,
    config_layers,
    config_names,
    freeze,
    recipe_names,
)


def frozen_tree(name: str) -> Any:
    """Return the tree of a registered config, or of a Python file's function, with every default spelt out."""
    return freeze(recipe_of(name).layers(name)).tree


def plain_tree(name: str) -> Any:
    """Return the tree of a Python file's function as it renders."""
    return recipe_of(name).layers(name).tree


def merged_tree(file: str) -> Any:
    """Return the tree of a YAML file over its bases."""
    return config_layers(file, None).tree


def recipe_of(name: str) -> Recipe[Any]:
    """Return the recipe that a config is for.

    Raises:
        ConfigError: It is for none that is registered.
    """
    for recipe, names in config_names().items():
        if name in names:
            return load_recipe(recipe)
    file, function = (name, "") if name.endswith(".py") else name.rpartition(":")[::2]
    try:
        found = dict(functions_returning(Path(file).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError([Mistake(file, "", error.strerror or "cannot be read")]) from error
    wanted = {returns for made, returns in found.items() if function in ("", made)}
    for recipe_name in recipe_names():
        known = load_recipe(recipe_name)
        if known.config_class is not None and {known.config_class.__name__} == wanted:
            return known
    message = "name it as file.py:function, whose result is annotated with a registered recipe's config class"
    raise ConfigError([Mistake(name, "", message)])


def today(command: Sequence[str], allowed: Sequence[str]) -> Any:
    """Return the frozen tree of what a run's command means now."""
    from torchtune.cli._run import split_launch_options

    allow(*allowed)
    words = [word for word in command[1:] if word != "run"]
    call: Call = read_call(split_launch_options(words)[1], switches=("--overwrite",))
    recipe, layers = layers_of(call)
    layers.build(f"the config of {recipe.name} today")
    return freeze(layers).tree
