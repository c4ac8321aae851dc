"""The decorator that makes a recipe of a `main(cfg)`: runnable by `tune`, as a script, and from Python."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from torchtune.config import ConfigError, FieldError, InstantiationError, Mistake
from torchtune.config.model import (
    MISSING,
    Layers,
    Location,
    field_names,
    freeze,
    is_section,
    parameters,
    required_names,
    unresolved,
)
from torchtune.runs._argument_origins import located_at_arguments
from torchtune.runs._choices import note_unknown_components
from torchtune.runs._device import check_device
from torchtune.runs._ending import end_run
from torchtune.runs._folder import RunFolder, settle_seed
from torchtune.runs._overrides import Overriding
from torchtune.runs._recording import recording
from torchtune.runs._registry import config_names
from torchtune.runs._resume import CONTINUES, Resume
from torchtune.runs._settings import settings_of
from torchtune.runs._sources import add_function, add_object, config_layers
from torchtune.runs._tokens import tokenise
from torchtune.runs.command_line import CONFIG, Call, Suggest, suggest_run_option

C = TypeVar("C")


class Recipe(Generic[C]):
    """A recipe: its `main`, and the config class that its annotation names.

    Called with a config object it runs; called without one it reads the command line, as `tune` does.
    """

    def __init__(self, main: Callable[[C], None]) -> None:
        functools.update_wrapper(self, main)
        self.main = main
        self.name = Path(main.__code__.co_filename).stem

    @functools.cached_property
    def config_class(self) -> type | None:
        """The class that `main`'s argument is annotated with; None where there is no annotation.

        Raises:
            ConfigError: `main` does not take exactly one config, or is annotated with something else.
        """
        if inspect.iscoroutinefunction(self.main) or inspect.isgeneratorfunction(self.main):
            raise self._wrong("must be a plain function")
        taken = list(parameters(self.main).values())
        if len(taken) != 1:
            raise self._wrong("takes one argument, the config")
        lost = unresolved(self.main).get(taken[0].name)
        if lost:
            raise self._wrong(f"is annotated with {lost!r}, which is not defined there")
        if taken[0].type is MISSING or taken[0].type is Any:
            return None
        if not is_section(taken[0].type):
            raise self._wrong(f"must be annotated with an attrs class or a dataclass, not {taken[0].type!r}")
        found: type = taken[0].type
        return found

    def _wrong(self, message: str) -> ConfigError:
        code = self.main.__code__
        where = Location(0, code.co_firstlineno, code.co_filename, "file")
        found = Mistake("source", message, path=("main",), location=where)
        return ConfigError([found], f"the recipe {self.name}")

    def __call__(
        self,
        cfg: C | None = None,
        *,
        overwrite: bool = False,
        extend: bool = False,
        accept_changes: bool = False,
    ) -> None:
        """Run with a config object, or with the command line.

        Args:
            cfg: An object of the recipe's config class; None reads `sys.argv`.
            overwrite: Start anew in an output folder that holds an earlier run.
            extend: Continue a finished run, whose epochs or step limits are raised.
            accept_changes: Resume although code, data or versions have changed since the run began.

        Raises:
            ConfigError: With every mistake in the config, before anything is built.
            SystemExit: The command line was read, and the run did not end well.
        """
        if cfg is None:
            from torchtune.runs._script import run_recipe

            status = run_recipe(self, sys.argv[1:])
            if status:
                raise SystemExit(status)
            return
        allowed = Resume(overwrite, extend, accept_changes, from_python=True)
        self.run(self.layers_of(cfg), allowed)

    def layers_of(self, cfg: C) -> Layers:
        """Return a config object as layers."""
        layers = Layers.of_defaults(self.config_class)
        with recording(None) as recorder:
            add_object(layers, cfg, recorder.locate, Location())
        return layers

    def layers_of_function(self, make: Callable[[], C]) -> Layers:
        """Call a config function and return its result as layers, with the line of every literal.

        Raises:
            ConfigError: It fails, or returns no config of this recipe.
        """
        layers = Layers.of_defaults(self.config_class)
        add_function(layers, make, inspect.unwrap(make).__code__.co_filename)
        return layers

    def layers(
        self, config: str | None, words: Sequence[str] = (), suggest: Suggest = suggest_run_option
    ) -> Layers:
        """Merge a config that the user names with overrides.

        Args:
            config: A registered config, a file, or a run's folder; None for the class's defaults.
            words: Overrides as typed.
            suggest: What a flag may mean that is no field.

        Raises:
            ConfigError: The config cannot be read at all; other mistakes are noted in the layers.
        """
        layers = config_layers(config, self.config_class)
        apply_overrides(layers, words, suggest)
        note_unknown_components(layers)
        return layers

    def layers_of_call(self, call: Call) -> Layers:
        """Merge the config and the overrides of a command line, with the mistakes of the command line itself."""
        layers = self.layers(call.config, call.overrides, call.suggest)
        layers.mistakes += call.mistakes
        layers.incomplete |= call.has(CONFIG) and call.config is None  # it is named without a value
        configs = config_names().get(self.name)
        if call.config is None and configs and _lacks_much(layers):
            _note_no_config(layers, self.name, configs)
        return layers

    def run(self, layers: Layers, allowed: Resume = CONTINUES, command: list[str] | None = None) -> None:
        """Check a config, freeze it into its output folder, and run.

        Raises:
            ConfigError: With every mistake, before anything is built.
        """
        cfg, folder = self.prepare(layers, allowed, command)
        try:
            self.main(cfg)
        except InstantiationError as error:
            raise located_at_arguments(error, layers) from error.__cause__
        if folder is not None:
            end_run(folder)

    def prepare(
        self, layers: Layers, allowed: Resume = CONTINUES, command: list[str] | None = None
    ) -> tuple[C, RunFolder | None]:
        """Settle the seed, check a config and its device, and freeze it into its output folder.

        Returns:
            The config, and the claimed output folder; None for a recipe that has none.

        Raises:
            ConfigError: With every mistake, before anything is built.
        """
        of = f"the config of {self.name}"
        layers.normalise()
        settle_seed(layers, overwrite=allowed.overwrite)
        layers.programs.append(self.main.__code__.co_filename)
        cfg = layers.build(of)
        _check_device(cfg, layers)
        output_dir = settings_of(cfg).output_dir
        if output_dir is None:
            return cfg, None
        folder = RunFolder(output_dir)
        seed = layers.tree.get("seed")
        folder.claim(layers, command or sys.argv, allowed)
        if layers.tree.get("seed") != seed:  # another node began this run meanwhile
            cfg = layers.build(of)
        return cfg, folder

    def export(self, layers: Layers) -> str:
        """Return the frozen YAML of a config."""
        return freeze(layers).render()


def _lacks_much(layers: Layers) -> bool:
    """Tell whether more than one required field is not set, so that a config was forgotten."""
    needed = required_names(layers.wanted) if layers.wanted is not None else ()
    return sum(name not in layers.tree for name in needed) > 1


def _note_no_config(layers: Layers, recipe: str, configs: Sequence[str]) -> None:
    """Note that no config is named, and drop what follows from it: mistakes below the fields that it would set."""
    layers.mistakes = [m for m in layers.mistakes if len(m.path) < 2 or m.path[0] in layers.tree]
    listed = f"those of {recipe} are {', '.join(configs)}"
    example = f"write {CONFIG.text} NAME, such as {CONFIG.text} {min(configs, key=len)}"
    layers.mistakes.append(Mistake.of_word(CONFIG.text, f"none is named; {listed}", example))
    layers.incomplete = True


def _check_device(cfg: Any, layers: Layers) -> None:
    """Check that the device of a config is there.

    Raises:
        ConfigError: It is not; the message has the way out.
    """
    device = settings_of(cfg).device
    if device is None or device in ("auto", "cpu"):
        return  # always there, so that a recipe without torch needs none
    try:
        check_device(device)
    except FieldError as error:
        path = ("device",)
        raise ConfigError([Mistake("run", error.message, path=path, location=layers.origin(path))]) from error


def apply_overrides(layers: Layers, words: Sequence[str], suggest: Suggest = suggest_run_option) -> None:
    """Apply overrides as typed; what is wrong with them is noted in the layers."""
    overrides, mistakes = tokenise(words, suggest, field_names(layers.wanted) if layers.wanted else ())
    overriding = Overriding(layers, suggest)
    layers.mistakes += mistakes
    rest = overriding.apply(overrides)
    if rest:
        from torchtune.runs._flags import match_flags

        typed = match_flags(layers, rest)
        overriding.set_values([o.with_text(typed.get(o.key, o.text)) for o in rest])


def parse(main: Callable[[C], None]) -> Recipe[C]:
    """Make a recipe of a function that takes a config.

    Args:
        main: Takes one argument. Annotated with an attrs class or a dataclass, it gets an object of it, checked and
            resolved; without an annotation it gets a mapping with attribute access.
    """
    return Recipe(main)
