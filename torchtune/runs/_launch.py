"""Load the recipe and the config of a command line."""

from typing import Any

from torchtune.config import ConfigError
from torchtune.config.model import Layers
from torchtune.runs._discover import load_recipe
from torchtune.runs._recipe import Recipe
from torchtune.runs.command_line import Call
from torchtune.runs.console import print_notes


def layers_of(call: Call) -> tuple[Recipe[Any], Layers]:
    """Return a call's recipe and its config with overrides merged, before any checks.

    Raises:
        ConfigError: The recipe or the config cannot be read.
    """
    if not call.recipe:
        raise ConfigError.of_argument("", "no recipe given", "tune ls lists the recipes")
    recipe = load_recipe(call.recipe)
    return recipe, recipe.layers_of_call(call)


def checked_layers(call: Call) -> tuple[Recipe[Any], Layers, Any]:
    """Return a call's recipe, layers and checked config object; print the config's notes.

    Raises:
        ConfigError: The config has mistakes; all are listed.
    """
    recipe, layers = layers_of(call)
    print_notes(layers)
    return recipe, layers, layers.build(f"the config of {recipe.name}")
