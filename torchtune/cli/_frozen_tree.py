"""Configs as trees for comparing, where they have to be imported for it."""

from collections.abc import Sequence
from typing import Any

from torchtune.cli._call import Call, layers_of, load_recipe, read_call
from torchtune.cli._folder import recipe_for
from torchtune.config import allow
from torchtune.config.model import freeze
from torchtune.runs import config_layers


def frozen_tree(name: str) -> Any:
    """Return the tree of a registered config, or of a Python file's function, with every default spelt out."""
    return freeze(load_recipe(recipe_for(name)).layers(name)).tree


def plain_tree(name: str) -> Any:
    """Return the tree of a Python file's function as it renders."""
    return load_recipe(recipe_for(name)).layers(name).tree


def merged_tree(file: str) -> Any:
    """Return the tree of a YAML file over its bases."""
    return config_layers(file, None).tree


def today(command: Sequence[str], allowed: Sequence[str]) -> Any:
    """Return the frozen tree of what a run's command means now."""
    from torchtune.cli._run import split_launch_options

    allow(*allowed)
    is_script = command[0].endswith(".py")  # `python my_recipe.py --config ...`
    words = [*command] if is_script else [word for word in command[1:] if word != "run"]
    call: Call = read_call(split_launch_options(words)[1], switches=("--overwrite",))
    recipe, layers = layers_of(call)
    layers.build(f"the config of {recipe.name} today")
    return freeze(layers).tree
