"""From a command line to a recipe and its config."""

from typing import Any

from torchtune.config import ConfigError, Mistake
from torchtune.config.model import Layers, required_names
from torchtune.runs._discover import load_recipe
from torchtune.runs._recipe import Recipe
from torchtune.runs._registry import config_names
from torchtune.runs.command_line import CONFIG, Call
from torchtune.runs.console import print_notes


def layers_of(call: Call) -> tuple[Recipe[Any], Layers]:
    """Return a call's recipe, and its config with the overrides merged, not yet checked.

    Raises:
        ConfigError: The recipe or the config cannot be read at all.
    """
    if not call.recipe:
        raise ConfigError.of_word("", "name a recipe", "tune ls lists them")
    recipe = load_recipe(call.recipe)
    layers = recipe.layers_of_call(call)
    configs = config_names().get(recipe.name)
    if call.config is None and configs and _lacks_much(layers):
        known = f"those of {recipe.name} are {', '.join(configs)}"
        layers.mistakes.append(Mistake.of_word(CONFIG.text, "none is named", known))
        layers.incomplete = True
    return recipe, layers


def checked_layers(call: Call) -> tuple[Recipe[Any], Layers, Any]:
    """Return a call's recipe, its config, and the object that it builds, after printing notes.

    Raises:
        ConfigError: With every mistake.
    """
    recipe, layers = layers_of(call)
    print_notes(layers)
    return recipe, layers, layers.build(f"the config of {recipe.name}")


def _lacks_much(layers: Layers) -> bool:
    """Tell whether more than one required field is not set, so that a config was forgotten."""
    needed = required_names(layers.wanted) if layers.wanted is not None else ()
    return sum(name not in layers.tree for name in needed) > 1
