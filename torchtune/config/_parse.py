"""The decorator that makes a recipe of a `main(cfg)`: runnable by `tune`, as a script, and from Python."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from torchtune.config._classes import field_names
from torchtune.config._frozen import freeze
from torchtune.config._layers import Layers
from torchtune.config._mistakes import ConfigError, Mistake
from torchtune.config._outputs import Run, claim
from torchtune.config._overrides import Overriding
from torchtune.config._recording import recording
from torchtune.config._signature import MISSING, parameters, unresolved
from torchtune.config._sources import add_function, add_object, config_layers
from torchtune.config._tokens import tokenise
from torchtune.config._types import is_section

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
        if lost := unresolved(self.main).get(taken[0].name):
            raise self._wrong(f"is annotated with {lost!r}, which is not defined there")
        if taken[0].type is MISSING or taken[0].type is Any:
            return None
        if not is_section(taken[0].type):
            raise self._wrong(f"must be annotated with an attrs class or a dataclass, not {taken[0].type!r}")
        found: type = taken[0].type
        return found

    def _wrong(self, message: str) -> ConfigError:
        code = self.main.__code__
        where = f"{code.co_filename}:{code.co_firstlineno}"
        return ConfigError([Mistake(where, "main", message)], f"the recipe {self.name}")

    def __call__(self, cfg: C | None = None, *, overwrite: bool = False) -> None:
        """Run with a config object, or with the command line.

        Args:
            cfg: An object of the recipe's config class; None reads `sys.argv`.
            overwrite: Start anew in an output folder that holds an earlier run.

        Raises:
            ConfigError: With every mistake in the config, before anything is built.
            SystemExit: The command line was read, and the run did not end well.
        """
        if cfg is None:
            from torchtune.cli import run_recipe

            if status := run_recipe(self, sys.argv[1:]):
                raise SystemExit(status)
            return
        self.run(self.layers_of(cfg), overwrite=overwrite)

    def layers_of(self, cfg: C) -> Layers:
        """Return a config object as layers."""
        layers = Layers.of_defaults(self.config_class)
        with recording(None) as recorder:
            add_object(layers, cfg, recorder.locate, "")
        return layers

    def layers_of_function(self, make: Callable[[], C]) -> Layers:
        """Call a config function and return its result as layers, with the line of every literal.

        Raises:
            ConfigError: It fails, or returns no config of this recipe.
        """
        layers = Layers.of_defaults(self.config_class)
        add_function(layers, make, inspect.unwrap(make).__code__.co_filename)
        return layers

    def layers(self, config: str | None, words: Sequence[str] = ()) -> Layers:
        """Merge a config that the user names with overrides.

        Args:
            config: A registered config, a file, or a run's folder; None for the class's defaults.
            words: Overrides as typed.

        Raises:
            ConfigError: The config cannot be read at all; other mistakes are noted in the layers.
        """
        layers = config_layers(config, self.config_class)
        apply_overrides(layers, words)
        return layers

    def run(self, layers: Layers, *, overwrite: bool = False, command: list[str] | None = None) -> None:
        """Check a config, freeze it into its output folder, and run.

        Raises:
            ConfigError: With every mistake, before anything is built.
        """
        run = self.prepare(layers, overwrite=overwrite, command=command)
        self.main(layers.build(f"the config of {self.name}"))
        if run is not None:
            run.finished()

    def prepare(
        self, layers: Layers, *, overwrite: bool = False, command: list[str] | None = None
    ) -> Run | None:
        """Check a config and its device, and freeze it into its output folder.

        Returns:
            The claimed output folder; None for a recipe that has none.

        Raises:
            ConfigError: With every mistake, before anything is built.
        """
        cfg = layers.build(f"the config of {self.name}")
        check_device(cfg, layers)
        output_dir = getattr(cfg, "output_dir", None)
        return (
            claim(layers, str(output_dir), overwrite=overwrite, command=command)
            if isinstance(output_dir, (str, Path))
            else None
        )

    def export(self, layers: Layers) -> str:
        """Return the frozen YAML of a config."""
        return freeze(layers).render()


def check_device(cfg: Any, layers: Layers) -> None:
    """Check that the device of a config is there.

    Raises:
        ConfigError: It is not; the message has the way out.
    """
    device = getattr(cfg, "device", None)
    if not isinstance(device, str) or device in ("auto", "cpu"):
        return  # always there, so that a recipe without torch needs none
    from torchtune.training import check_device as check

    try:
        check(device)
    except ValueError as error:
        where = layers.origin(("device",)).text
        raise ConfigError([Mistake(where, "device", str(error).removeprefix("device: "))]) from error


def apply_overrides(layers: Layers, words: Sequence[str]) -> None:
    """Apply overrides as typed; what is wrong with them is noted in the layers."""
    overrides, mistakes = tokenise(words, field_names(layers.wanted) if layers.wanted else ())
    overriding = Overriding(layers)
    for mistake in mistakes:
        layers.mistakes.append((layers.origin(()), mistake))
    rest = overriding.apply(overrides)
    if rest:
        from torchtune.config._flags import match_flags

        typed = match_flags(layers, rest)
        overriding.set_values([o.with_text(typed.get(o.key, o.text)) for o in rest])


def parse(main: Callable[[C], None]) -> Recipe[C]:
    """Make a recipe of a function that takes a config.

    Args:
        main: Takes one argument. Annotated with an attrs class or a dataclass, it gets an object of it, checked and
            resolved; without an annotation it gets a mapping with attribute access.
    """
    return Recipe(main)
