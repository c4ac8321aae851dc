"""The lazy partial: a description of an object that is not built yet.

To type checkers, `lazy` *is* `functools.partial`, which mypy and pyright special-case, so that editors report a wrong
keyword or type. At run time, `lazy` is a subclass that adds equality, read-only keywords, a readable repr and the
location of the call that created the component.
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
    "flatten",
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
"""The key whose value is a component's dotpath, in YAML and on the command line."""


class Component(Protocol[T_co]):
    """The annotation of a config field whose value is a lazy partial: `optimizer: Component[Optimizer]`."""

    @property
    def func(self) -> Callable[..., T_co]:
        """The class or function that builds the object."""

    @property
    def keywords(self) -> Mapping[str, Any]:
        """The arguments set in the config, by name."""

    def __call__(self, *args: Any, **kwargs: Any) -> T_co:
        """Build the object. Recipes call `torchtune.config.instantiate` instead, which also checks the arguments."""


if TYPE_CHECKING:
    from functools import partial as lazy
else:

    class lazy(functools.partial):  # noqa: N801 -- statically this name is functools.partial
        """A component and its arguments, not yet built.

        Args:
            func: The class or function that builds the object; it must have a public dotpath.
            *args: Positional arguments; YAML represents them by name.
            **kwargs: Keyword arguments.
        """

        def __new__(cls, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "lazy":
            return _create(cls, func, args, kwargs)

        @property
        def keywords(self) -> Mapping[str, Any]:
            """The arguments set in the config, by name; read-only, because class defaults are shared."""
            return MappingProxyType(super().keywords)

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in ("written_at", "read_at"):
                example = f"lazy({getattr(self.func, '__name__', '...')}, {name}=...)"
                raise AttributeError(f"a lazy partial is read-only; assign a new one: {example}")
            super().__setattr__(name, value)

        def __eq__(self, other: object) -> bool:
            if not isinstance(other, functools.partial):
                return NotImplemented
            flat: functools.partial[Any] = flatten(other)
            return self.func == flat.func and bound_keywords(self) == bound_keywords(flat)

        __hash__ = None

        def __repr__(self) -> str:
            name = getattr(self.func, "__qualname__", repr(self.func))
            arguments = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.keywords.items()]
            return f"lazy({', '.join([name, *arguments])})"

        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuild, (self.func, self.args, dict(self.keywords))


def _create(cls: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a new component for `lazy` or `nested`, with the location of the call."""
    frame = calling_frame(2)
    flat = flatten(functools.partial(func, *args, **kwargs))
    component = functools.partial.__new__(cls, flat.func, *flat.args, **flat.keywords)
    component.written_at = None if frame is None else (frame.f_code, frame.f_lasti)
    return component


def _rebuild(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return lazy(func, *args, **kwargs)


def nested(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Describe a component that is an argument of another component.

    To type checkers, `nested(...)` has the return type of `func`, as the outer signature requires. At run time, it is a
    lazy partial, which `instantiate` builds before the outer component.
    """
    component: T = _create(lazy, func, args, kwargs)
    return component


def ref(path: str) -> Any:
    """Return a reference to a config field, like `${path}` in YAML; type checkers accept it for any field.

    Args:
        path: Dotted path from the config's root, such as `model_directory` or `dataset.source`.
    """
    return f"${{{path}}}"


def is_component(value: object) -> bool:
    """Return whether a value is a component: `lazy(...)`, a `functools.partial`, or a mapping with `_component_`."""
    return isinstance(value, functools.partial) or (isinstance(value, Mapping) and COMPONENT_KEY in value)


def written_at(component: object) -> tuple[CodeType, int] | None:
    """Return the code object and instruction offset of the call that created a component; None if unknown."""
    return getattr(component, "written_at", None)


def stamp(component: object, location: Location, path: Path) -> None:
    """Record the location (`my.yaml:12`) and the field path (`dataset`) from which a lazy partial was read."""
    if isinstance(component, lazy) and not TYPE_CHECKING:
        component.read_at = (location, path)


def read_at(component: object) -> tuple[Location, Path] | None:
    """Return the location and field path recorded by `stamp`, or None."""
    return getattr(component, "read_at", None)


def flatten(component: "functools.partial[Any]") -> "functools.partial[Any]":
    """Flatten nested partials into a single, equivalent partial.

    Python flattens plain partials itself, but not partials with attributes, such as a lazy partial.
    """
    while isinstance(component.func, functools.partial):
        inner = component.func
        keywords = {**inner.keywords, **component.keywords}
        component = functools.partial(inner.func, *inner.args, *component.args, **keywords)
    return component


def bound_keywords(component: "functools.partial[Any]") -> dict[str, Any]:
    """Return a partial's arguments by name, with positional arguments bound to their parameters.

    Raises:
        TypeError: There are more positional arguments than named parameters, or an argument is passed twice.
    """
    component = flatten(component)
    keywords = dict(component.keywords)
    if not component.args:
        return keywords
    from torchtune.config._signature import parameters

    names = [p.name for p in parameters(component.func).values() if p.positional]
    if len(component.args) > len(names):
        raise TypeError(f"{len(component.args)} positional arguments, but only {len(names)} parameters")
    positional = dict(zip(names, component.args, strict=False))
    duplicates = positional.keys() & keywords.keys()
    if duplicates:
        raise TypeError(f"{min(duplicates)!r} is passed by position and by name")
    return positional | keywords
