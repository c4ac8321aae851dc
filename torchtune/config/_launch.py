"""From a command line to a recipe and its config; and a recipe's own file as a program."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchtune.config._classes import required_names
from torchtune.config._discover import load_recipe
from torchtune.config._flags import print_help
from torchtune.config._layers import Layers
from torchtune.config._mistakes import Mistake
from torchtune.config._parse import Recipe
from torchtune.config._registry import config_names
from torchtune.config._trust import allow, trust_folder_of
from torchtune.config.command_line import CONFIG, OVERWRITE, RUN_OPTIONS, Call, read_words, usage_error
from torchtune.config.console import guarded, print_notes


def layers_of(call: Call) -> tuple[Recipe[Any], Layers]:
    """Return a call's recipe, and its config with the overrides merged, not yet checked.

    Raises:
        ConfigError: The recipe or the config cannot be read at all.
    """
    if not call.recipe:
        raise usage_error("", "name a recipe", "tune ls lists them")
    recipe = load_recipe(call.recipe)
    layers = _merged(recipe, call)
    configs = config_names().get(recipe.name)
    if call.config is None and configs and _lacks_much(layers):
        message = f"none is named; those of {recipe.name} are {', '.join(configs)}"
        layers.mistakes.append((layers.origin(()), Mistake(CONFIG.text, "", message)))
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


def _merged(recipe: Recipe[Any], call: Call) -> Layers:
    layers = recipe.layers(call.config, call.overrides, call.suggest)
    layers.mistakes += [(layers.origin(()), mistake) for mistake in call.mistakes]
    layers.incomplete |= any(mistake.origin == CONFIG.text for mistake in call.mistakes)
    return layers


def _lacks_much(layers: Layers) -> bool:
    """Tell whether more than one required field is not set, so that a config was forgotten."""
    needed = required_names(layers.wanted) if layers.wanted is not None else ()
    return sum(name not in layers.tree for name in needed) > 1


def run_recipe(recipe: Recipe[Any], argv: Sequence[str]) -> int:
    """Run a recipe's own file as a program: `python my_recipe.py --config ...`.

    Returns:
        The exit status: 0 done, 2 the user's input is wrong, 1 the run failed, 128 + n it was ended by signal n.
    """
    return guarded(lambda words: _run_script(recipe, words), argv)


def _run_script(recipe: Recipe[Any], argv: Sequence[str]) -> int:
    file = Path(recipe.main.__code__.co_filename)
    trust_folder_of(file)
    # Dotpaths lead to the objects that the running script made, not to those of a second import.
    sys.modules.setdefault(file.stem, sys.modules[recipe.main.__module__])
    call = read_words([str(file), *argv], RUN_OPTIONS)
    allow(*call.allowed)
    layers = _merged(recipe, call)
    if call.wants_help:
        print_help(layers, recipe.name, recipe.__doc__ or "")
        return 0
    print_notes(layers)
    recipe.run(layers, overwrite=call.has(OVERWRITE), command=[*sys.argv])
    return 0
