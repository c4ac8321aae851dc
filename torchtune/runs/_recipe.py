"""The decorator that turns `main(cfg)` into a recipe, which can be run with `tune`, as a script or from Python."""

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
    unresolved_hints,
)
from torchtune.runs._argument_origins import located_at_arguments
from torchtune.runs._choices import note_unknown_components
from torchtune.runs._device import check_device
from torchtune.runs._finish import finish_run
from torchtune.runs._folder import RunFolder, choose_seed
from torchtune.runs._overrides import OverrideApplier
from torchtune.runs._recording import recording
from torchtune.runs._registry import config_names
from torchtune.runs._resume import RESUME_ONLY, Resume
from torchtune.runs._settings import settings_of
from torchtune.runs._sources import add_function, add_object, config_layers
from torchtune.runs._tokens import tokenize_overrides
from torchtune.runs.command_line import CONFIG, Call, Suggest, suggest_run_option

C = TypeVar("C")


class Recipe(Generic[C]):
    """A recipe: its `main`, and the config class in the annotation of `main`.

    Calling a recipe with a config object runs it; calling it without arguments reads the command line, like `tune`.
    """

    def __init__(self, main: Callable[[C], None]) -> None:
        functools.update_wrapper(self, main)
        self.main = main
        self.name = Path(main.__code__.co_filename).stem

    @functools.cached_property
    def config_class(self) -> type | None:
        """The class in the annotation of `main`'s argument; None if there is no annotation.

        Raises:
            ConfigError: `main` does not have exactly one argument, or its annotation is not a config class.
        """
        if inspect.iscoroutinefunction(self.main) or inspect.isgeneratorfunction(self.main):
            raise self._main_error("expected a plain function")
        arguments = list(parameters(self.main).values())
        if len(arguments) != 1:
            raise self._main_error("expected a function with one argument, the config")
        unresolved_name = unresolved_hints(self.main).get(arguments[0].name)
        if unresolved_name:
            raise self._main_error(f"the annotation {unresolved_name!r} is not defined")
        if arguments[0].type is MISSING or arguments[0].type is Any:
            return None
        if not is_section(arguments[0].type):
            message = f"expected an attrs class or a dataclass as annotation, got {arguments[0].type!r}"
            raise self._main_error(message)
        annotation: type = arguments[0].type
        return annotation

    def _main_error(self, message: str) -> ConfigError:
        code = self.main.__code__
        location = Location(0, code.co_firstlineno, code.co_filename, "file")
        mistake = Mistake("source", message, path=("main",), location=location)
        return ConfigError([mistake], f"the recipe {self.name}")

    def __call__(
        self,
        cfg: C | None = None,
        *,
        overwrite: bool = False,
        extend: bool = False,
        accept_changes: bool = False,
    ) -> None:
        """Run the recipe with a config object, or with the command line.

        Args:
            cfg: An object of the recipe's config class; if None, `sys.argv` is read.
            overwrite: Remove an earlier run from the output folder and start a new one.
            extend: Continue a finished run whose epochs or step limits were raised.
            accept_changes: Resume even if code, data or package versions have changed since the run started.

        Raises:
            ConfigError: The config has mistakes; all are listed, and nothing has been built.
            SystemExit: The recipe was called without a config object and failed.
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
        """Call a config function and return its result as layers, with the source line of every literal.

        Raises:
            ConfigError: The function fails, or does not return a config of this recipe.
        """
        layers = Layers.of_defaults(self.config_class)
        add_function(layers, make, inspect.unwrap(make).__code__.co_filename)
        return layers

    def layers(
        self, config: str | None, args: Sequence[str] = (), suggest: Suggest = suggest_run_option
    ) -> Layers:
        """Merge a named config with overrides.

        Args:
            config: A registered config, a file, or a run's folder; None selects the class's defaults.
            args: Overrides, as typed.
            suggest: Returns a suggestion for a flag that is not a field.

        Raises:
            ConfigError: The config cannot be read; other mistakes are added to the layers.
        """
        layers = config_layers(config, self.config_class)
        apply_overrides(layers, args, suggest)
        note_unknown_components(layers)
        return layers

    def layers_of_call(self, call: Call) -> Layers:
        """Merge the config and the overrides of a command line, and add the command line's mistakes."""
        layers = self.layers(call.config, call.overrides, call.suggest)
        layers.mistakes += call.mistakes
        layers.incomplete |= call.has(CONFIG) and call.config is None  # `--config` without a value
        configs = config_names().get(self.name)
        if call.config is None and configs and _lacks_multiple_fields(layers):
            _report_missing_config(layers, self.name, configs)
        return layers

    def run(self, layers: Layers, allowed: Resume = RESUME_ONLY, command: list[str] | None = None) -> None:
        """Check a config, freeze it into its output folder, and run the recipe.

        Raises:
            ConfigError: The config has mistakes; all are listed, and nothing has been built.
        """
        cfg, folder = self.prepare(layers, allowed, command)
        try:
            self.main(cfg)
        except InstantiationError as error:
            raise located_at_arguments(error, layers) from error.__cause__
        if folder is not None:
            finish_run(folder)

    def prepare(
        self, layers: Layers, allowed: Resume = RESUME_ONLY, command: list[str] | None = None
    ) -> tuple[C, RunFolder | None]:
        """Choose the seed, check a config and its device, and freeze it into its output folder.

        Returns:
            The config, and the claimed output folder; None for a recipe without one.

        Raises:
            ConfigError: The config has mistakes; all are listed, and nothing has been built.
        """
        subject = f"the config of {self.name}"
        layers.normalise()
        choose_seed(layers, overwrite=allowed.overwrite)
        layers.programs.append(self.main.__code__.co_filename)
        cfg = layers.build(subject)
        _check_device(cfg, layers)
        output_dir = settings_of(cfg).output_dir
        if output_dir is None:
            return cfg, None
        folder = RunFolder(output_dir)
        seed = layers.tree.get("seed")
        folder.claim(layers, command or sys.argv, allowed)
        if layers.tree.get("seed") != seed:  # another node has started this run in the meantime
            cfg = layers.build(subject)
        return cfg, folder

    def export(self, layers: Layers) -> str:
        """Return the frozen YAML of a config."""
        return freeze(layers).render()


def _lacks_multiple_fields(layers: Layers) -> bool:
    """Return whether multiple required fields are not set, which suggests that `--config` was forgotten."""
    needed = required_names(layers.config_class) if layers.config_class is not None else ()
    return sum(name not in layers.tree for name in needed) > 1


def _report_missing_config(layers: Layers, recipe: str, configs: Sequence[str]) -> None:
    """Add a mistake for the missing config, and drop mistakes in fields that the config would have set."""
    layers.mistakes = [m for m in layers.mistakes if len(m.path) < 2 or m.path[0] in layers.tree]
    available = f"the configs of {recipe} are {', '.join(configs)}"
    example = f"pass {CONFIG.text} NAME, such as {CONFIG.text} {min(configs, key=len)}"
    layers.mistakes.append(Mistake.of_argument(CONFIG.text, f"no config given; {available}", example))
    layers.incomplete = True


def _check_device(cfg: Any, layers: Layers) -> None:
    """Check that this machine has the config's device.

    Raises:
        ConfigError: The device is not available; the message explains how to fix this.
    """
    device = settings_of(cfg).device
    if device is None or device in ("auto", "cpu"):
        return  # always available, so a recipe that does not use torch does not import it
    try:
        check_device(device)
    except FieldError as error:
        path = ("device",)
        raise ConfigError([Mistake("run", error.message, path=path, location=layers.origin(path))]) from error


def apply_overrides(layers: Layers, args: Sequence[str], suggest: Suggest = suggest_run_option) -> None:
    """Apply overrides, as typed; their mistakes are added to the layers."""
    overrides, mistakes = tokenize_overrides(
        args, suggest, field_names(layers.config_class) if layers.config_class else ()
    )
    applier = OverrideApplier(layers, suggest)
    layers.mistakes += mistakes
    value_overrides = applier.apply(overrides)
    if value_overrides:
        from torchtune.runs._flags import match_flags

        typed = match_flags(layers, value_overrides)
        applier.set_values([o.with_text(typed.get(o.key, o.text)) for o in value_overrides])


def parse(main: Callable[[C], None]) -> Recipe[C]:
    """Turn a function of one argument, the config, into a recipe.

    Args:
        main: The function. If its argument is annotated with an attrs class or a dataclass, it receives an object of
            that class, checked and resolved; without an annotation, it receives a mapping with attribute access.
    """
    return Recipe(main)
