"""The lazy component: an object that is described but not built.

Statically `lazy` *is* `functools.partial`, which mypy and pyright special-case, so that a wrong keyword or
type is an error in the editor. At run time it is our own subclass, with equality, read-only keywords, a
readable repr and a memory of the line it was written on.
"""

import functools
from collections.abc import Callable, Mapping
from types import CodeType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar

from torchtune.config._mistakes import Location, Path
from torchtune.internals import calling_frame

__all__ = [
    "COMPONENT_KEY",
    "Component",
    "bound_keywords",
    "flattened",
    "is_component",
    "lazy",
    "nested",
    "read_at",
    "ref",
    "stamp",
    "written_at",
]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

COMPONENT_KEY: Final = "_component_"
"""The key that holds a component's dotpath in YAML and on the command line."""


class Component(Protocol[T_co]):
    """What a config field that holds a lazy component is annotated with: `optimizer: Component[Optimizer]`."""

    @property
    def func(self) -> Callable[..., T_co]:
        """The class or function that builds the object."""

    @property
    def keywords(self) -> Mapping[str, Any]:
        """The arguments that the config gives it, by name."""

    def __call__(self, *args: Any, **kwargs: Any) -> T_co:
        """Build the object; recipes call `torchtune.config.instantiate` instead, for its checks."""


if TYPE_CHECKING:
    from functools import partial as lazy
else:

    class lazy(functools.partial):  # noqa: N801 -- statically this name is functools.partial
        """A component and its arguments, not yet built.

        Args:
            func: The class or function that builds the object; it must have a public dotpath.
            *args: Positional arguments, bound to their names when written to YAML.
            **kwargs: Arguments by name.
        """

        def __new__(cls, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "lazy":
            return _make(cls, func, args, kwargs)

        @property
        def keywords(self) -> Mapping[str, Any]:
            """The arguments that the config gives, by name; read-only, since class defaults are shared."""
            return MappingProxyType(super().keywords)

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in ("written_at", "read_at"):
                made = f"lazy({getattr(self.func, '__name__', '...')}, {name}=...)"
                raise AttributeError(f"a lazy cannot be changed; assign another: {made}")
            super().__setattr__(name, value)

        def __eq__(self, other: object) -> bool:
            if not isinstance(other, functools.partial):
                return NotImplemented
            whole: functools.partial[Any] = flattened(other)
            return self.func == whole.func and bound_keywords(self) == bound_keywords(whole)

        __hash__ = None

        def __repr__(self) -> str:
            name = getattr(self.func, "__qualname__", repr(self.func))
            given = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.keywords.items()]
            return f"lazy({', '.join([name, *given])})"

        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuild, (self.func, self.args, dict(self.keywords))


def _make(cls: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Create a lazy for `lazy` or `nested`, remembering the call of it."""
    frame = calling_frame(2)
    whole = flattened(functools.partial(func, *args, **kwargs))
    made = functools.partial.__new__(cls, whole.func, *whole.args, **whole.keywords)
    made.written_at = None if frame is None else (frame.f_code, frame.f_lasti)
    return made


def _rebuild(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return lazy(func, *args, **kwargs)


def nested(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Describe a component that is an argument of another component.

    Statically it is what `func` returns, since that is what the outer signature asks for; at run time it is a
    lazy, built depth-first by `instantiate`.
    """
    made: T = _make(lazy, func, args, kwargs)
    return made


def ref(path: str) -> Any:
    """Refer to another field of the config, as `${path}` does in YAML; statically it fits everywhere.

    Args:
        path: Dotted path from the config's root, such as `model_directory` or `dataset.source`.
    """
    return f"${{{path}}}"


def is_component(value: object) -> bool:
    """Tell whether a value describes a component: a lazy, a stock partial, or a mapping with `_component_`."""
    return isinstance(value, functools.partial) or (isinstance(value, Mapping) and COMPONENT_KEY in value)


def written_at(component: object) -> tuple[CodeType, int] | None:
    """Return the code object and instruction offset of the call that wrote a lazy; None for a stock partial."""
    return getattr(component, "written_at", None)


def stamp(component: object, location: Location, path: Path) -> None:
    """Let a lazy know where the config that it was read from says it: `my.yaml:12`, at `dataset`."""
    if isinstance(component, lazy) and not TYPE_CHECKING:
        component.read_at = (location, path)


def read_at(component: object) -> tuple[Location, Path] | None:
    """Return the location and path that a lazy was stamped with; None where it was not."""
    return getattr(component, "read_at", None)


def flattened(component: "functools.partial[Any]") -> "functools.partial[Any]":
    """Return a partial of a function that makes the same call as a partial of partials.

    Python flattens those itself, except where one has attributes, as a lazy does.
    """
    while isinstance(component.func, functools.partial):
        inner = component.func
        keywords = {**inner.keywords, **component.keywords}
        component = functools.partial(inner.func, *inner.args, *component.args, **keywords)
    return component


def bound_keywords(component: "functools.partial[Any]") -> dict[str, Any]:
    """Return a partial's arguments by name, its positional ones bound to the parameters they fill.

    Raises:
        TypeError: There are more positional arguments than named parameters.
    """
    component = flattened(component)
    keywords = dict(component.keywords)
    if not component.args:
        return keywords
    from torchtune.config._signature import parameters

    names = [p.name for p in parameters(component.func).values() if p.positional]
    if len(component.args) > len(names):
        raise TypeError(f"{len(component.args)} positional arguments, but only {len(names)} have a name")
    positional = dict(zip(names, component.args, strict=False))
    twice = positional.keys() & keywords.keys()
    if twice:
        raise TypeError(f"{min(twice)!r} is given by position and by name")
    return positional | keywords
