"""Reading `<recipe> --config X [overrides] [flags]`, which running and most verbs share."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from torchtune.cli._style import paint
from torchtune.config import (
    ConfigError,
    Layers,
    Mistake,
    Recipe,
    allow,
    config_names,
    load_module,
    prefer_packages_beside,
    recipe_source,
    required_names,
    trust_folder_of,
)

OPTIONS = frozenset(
    {
        "--all",
        "--html",
        "--held-out",
        "--json",
        "--limit",
        "--origins",
        "--output",
        "-o",
        "--overwrite",
        "--resolved",
        "--rows",
    }
)
"""Options of some verb; none of them is a field of a config."""


@define
class Call:
    """One call of `tune`, as words."""

    recipe: str = ""
    config: str | None = None
    words: list[str] = field(factory=list)
    """Overrides as typed."""
    flags: dict[str, str] = field(factory=dict)
    """Flags of the verb, with their values; empty text for a switch."""
    mistakes: list[Mistake] = field(factory=list)

    @property
    def wants_help(self) -> bool:
        """True where `--help` was given."""
        return "--help" in self.flags


def read_call(argv: Sequence[str], switches: Sequence[str] = (), valued: Sequence[str] = ()) -> Call:
    """Read the words behind a verb, or behind torchrun's options.

    Args:
        argv: The words.
        switches: Flags of this verb without a value, beside `--help`.
        valued: Flags of this verb with a value, beside `--config` and `--allow`.
    """
    call = Call()
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word.partition("=")
        if word in ("-h", "--help") or word in switches:
            call.flags["--help" if word == "-h" else word] = ""
        elif name in ("--config", "--allow", *valued):
            has_value = bool(equals) or bool(words and not words[0].startswith("--"))
            value = text if equals else words.pop(0) if has_value else ""
            if has_value and (value or name == "--config"):  # an empty name is said to be no config
                _set_flag(call, name, value)
            else:
                call.mistakes.append(Mistake(name, "", "needs a value"))
        elif name in OPTIONS:
            call.mistakes.append(
                Mistake(name, "", "is an option of another call; tune <verb> --help lists them")
            )
        elif not call.recipe and not word.startswith("-") and "=" not in word:
            call.recipe = word
        else:
            call.words.append(word)
    for named in (call.recipe, call.config or ""):
        file = named.rpartition(":")[0] if ".py:" in named else named
        if file.endswith(".py"):  # before anything of ours is imported under a name that the project has too
            prefer_packages_beside(file)
    return call


def _set_flag(call: Call, name: str, text: str) -> None:
    if name in call.flags or (name == "--config" and call.config is not None):
        call.mistakes.append(Mistake(f"{name} {text}", "", f"{name} is given twice"))
    elif name == "--config":
        call.config = text
    elif name == "--allow":
        allow(*text.replace(",", " ").split())
    else:
        call.flags[name] = text


def load_recipe(name: str) -> Recipe[Any]:
    """Return a registered recipe, or that of a Python file.

    Raises:
        ConfigError: There is none, or the file holds none.
    """
    file = name if name.endswith(".py") else recipe_source(name).file
    module = load_module(file)
    found = [value for value in vars(module).values() if isinstance(value, Recipe)]
    own = [r for r in found if r.main.__module__ == module.__name__]
    if len(own) != 1:
        what = (
            "no function decorated with @config.parse"
            if not own
            else f"{len(own)} functions decorated with it"
        )
        raise ConfigError(
            [Mistake(name, "", f"expected one recipe, a main(cfg) under @config.parse; found {what}")],
            "the recipe",
        )
    return own[0]


def layers_of(call: Call) -> tuple[Recipe[Any], Layers]:
    """Return a call's recipe, and its config with the overrides merged, not yet checked.

    Raises:
        ConfigError: The recipe or the config cannot be read at all.
    """
    if not call.recipe:
        raise ConfigError([Mistake("", "", "name a recipe; tune ls lists them")], "the command line")
    recipe = load_recipe(call.recipe)
    layers = recipe.layers(call.config, call.words)
    if call.config is None and (configs := config_names().get(recipe.name)) and _lacks_much(layers):
        why = f"none is named; those of {recipe.name} are {', '.join(configs)}"
        call.mistakes.append(Mistake("--config", "", why))
    layers.incomplete |= any(mistake.origin == "--config" for mistake in call.mistakes)
    layers.mistakes += [(layers.origin(()), mistake) for mistake in call.mistakes]
    return recipe, layers


def _lacks_much(layers: Layers) -> bool:
    """Tell whether more than one required field is not set, so that a config was forgotten."""
    needed = required_names(layers.wanted) if layers.wanted is not None else ()
    return sum(name not in layers.tree for name in needed) > 1


def print_notes(layers: Layers) -> None:
    """Say on stderr what the user should know, such as arguments that a swap dropped."""
    for note in layers.notes:
        sys.stderr.write(f"{paint('note:', 'yellow', stream=sys.stderr)} {note}\n")


def help_or(call: Call, text: str, do: Callable[[], int]) -> int:
    """Print a verb's help where it is asked for, or do what it does."""
    if call.wants_help:
        sys.stdout.write(text)
        return 0
    return do()


def adopt_script(recipe: Recipe[Any]) -> None:
    """Trust the folder of the script that is running, and let its dotpaths lead to the objects that it made."""
    file = Path(recipe.main.__code__.co_filename)
    trust_folder_of(file)
    sys.modules.setdefault(file.stem, sys.modules[recipe.main.__module__])
