"""Functions that build models of a fixed size or of any size."""

import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpec, Protocol, cast

from attrs import evolve

from torchtune.modules import Architecture, Decoder

P = ParamSpec("P")


class Builder(Protocol):
    """A function that builds a model of one size, with random weights."""

    architecture: Architecture
    """Architecture of the model; `max_seq_len` is the function's default."""

    def __call__(self, max_seq_len: int = ...) -> Decoder:
        """Build the model.

        Args:
            max_seq_len: Maximum sequence length (tokens).
        """


def size(checkpoint: str, like: Builder | None = None) -> Callable[..., Builder]:
    """Declare a model of one size: `size(checkpoint, like)(num_layers=...)` returns the function that builds it.

    `name_builders` sets the name of that function.

    Args:
        checkpoint: Source of the sizes: a model on the Hugging Face hub, with its config.json.
        like: Builder of a different size, whose values are the defaults. None: all values must be passed.

    Returns:
        A function that accepts the values, as in `Architecture.from_values`, and returns the builder.
    """

    def declare(**values: Any) -> Builder:
        if like is None:
            return _builder(checkpoint, Architecture.from_values(**values))
        return _builder(checkpoint, like.architecture.evolve(**values))

    return declare


def _builder(checkpoint: str, architecture: Architecture) -> Builder:
    def build(max_seq_len: int = architecture.max_seq_len) -> Decoder:
        return Decoder(evolve(architecture, max_seq_len=max_seq_len))

    build.__doc__ = f"""Build {checkpoint}, with random weights, as described by its config.json.

    Args:
        max_seq_len: Maximum sequence length (tokens).
    """
    function: Any = build
    function.architecture = architecture
    return cast("Builder", function)


def default_arguments(build: Callable[..., Decoder]) -> dict[str, Any]:
    """Return the default values of a builder's arguments, except None."""
    parameters = inspect.signature(build).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not None}


def with_defaults(build: Callable[P, Decoder], like: Builder, summary: str) -> Callable[P, Decoder]:
    """Return a copy of a builder with the sizes of another builder as default arguments.

    Args:
        build: The builder to copy. A default of None is kept.
        like: The builder whose sizes become the defaults.
        summary: First line of the docstring.
    """
    assert isinstance(build, FunctionType)
    values = like.architecture.flat()
    defaults = tuple(
        None if parameter.default is None else values[name]
        for name, parameter in inspect.signature(build).parameters.items()
    )
    function = FunctionType(build.__code__, build.__globals__, build.__name__, defaults)
    function.__annotations__ = build.__annotations__
    remaining = (build.__doc__ or "").partition("\n")[2]
    function.__doc__ = f"{summary}\n{remaining}"
    function.__module__, function.__qualname__ = __name__, "<unnamed>"
    return cast("Callable[P, Decoder]", function)


def name_builders(module: str) -> None:
    """Name each builder of a module after its variable, so that configs can refer to it.

    Args:
        module: `__name__` of the module; call this at its end.
    """
    for name, value in vars(sys.modules[module]).items():
        if isinstance(value, FunctionType) and value.__module__ == __name__ and "<" in value.__qualname__:
            value.__module__, value.__name__, value.__qualname__ = module, name, name
