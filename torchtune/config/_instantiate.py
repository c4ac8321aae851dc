"""Build the objects that a config describes."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from torchtune.config._classes import message_of
from torchtune.config._component import COMPONENT_KEY, Component, flatten, is_component, read_at, written_at
from torchtune.config._components import structure_component
from torchtune.config._dotpath import dotpath
from torchtune.config._interpolation import is_reference, resolve_tree
from torchtune.config._mistakes import (
    InstantiationError,
    Location,
    Path,
    RejectedError,
    did_you_mean,
    dotted,
    with_suggestion,
)
from torchtune.config._node import node_source, root_of, tree_of
from torchtune.config._signature import accepts_kwargs, parameters
from torchtune.config._source_lines import location_of_call
from torchtune.config._structure import converter_for
from torchtune.config._tree import copy_tree
from torchtune.config._types import contains_components

T = TypeVar("T")

_OWN_FOLDER = __file__.rpartition("/")[0]


@overload
def instantiate(component: None, *args: Any, **kwargs: Any) -> None: ...
@overload
def instantiate(component: Component[T], *args: Any, **kwargs: Any) -> T: ...
@overload
def instantiate(component: Component[T] | None, *args: Any, **kwargs: Any) -> T | None: ...
@overload
def instantiate(component: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any: ...
def instantiate(component: Any, *args: Any, **kwargs: Any) -> Any:
    """Build the object that a component describes.

    Components among its arguments, including components in lists and mappings, are built first, except for arguments
    that are declared as `Component`. The inputs are never modified.

    Args:
        component: A lazy partial, a `functools.partial`, or a mapping with `_component_`; None returns None.
        *args: Positional arguments, appended to the component's positional arguments, as when calling a partial.
        **kwargs: Keyword arguments, which override those in the config.

    Raises:
        InstantiationError: The component cannot be built. The message names the component, its location and the
            argument; an exception raised by the component is the error's `__cause__`.
    """
    if component is None:
        return None
    if not is_component(component):
        message = f"expected a lazy partial, a functools.partial or a mapping with {COMPONENT_KEY}, got {component!r}"
        raise _located(InstantiationError(message), component)
    try:
        partial = _from_mapping(component) if isinstance(component, Mapping) else component
        return _build(partial, args, kwargs)
    except InstantiationError as error:
        raise _located(error, component) from error.__cause__


def _located(error: InstantiationError, component: Any) -> InstantiationError:
    """Add a component's location to an error, unless the error has the location of a nested component."""
    if error.location is None:
        error.location, error.path = _source_of(component)
    return error


def _source_of(component: Any) -> tuple[Location | None, Path]:
    """Return the location of a component and its field path; None and an empty path if unknown."""
    source = node_source(component) or read_at(component)
    if source:
        return source
    call = written_at(component)
    if call is None or call[0].co_filename.startswith(_OWN_FOLDER):
        return None, ()
    return location_of_call(*call), ()


def _from_mapping(component: Mapping[str, Any]) -> Any:
    """Convert a mapping to a lazy partial, and resolve references against the config that contains the mapping."""
    tree, root = tree_of(component), root_of(component)
    try:
        if root is not None:
            tree, unresolved = resolve_tree(tree, root)
            if unresolved:
                raise RejectedError(*unresolved)
        return structure_component(tree, Any, converter_for(references=True), incomplete=True)
    except RejectedError as rejected:
        raise InstantiationError("; ".join(map(str, rejected.mistakes))) from None


def _build(component: "functools.partial[Any]", args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    component = flatten(component)
    fn = component.func
    name = _name(fn)
    keywords = {**component.keywords, **kwargs}
    try:
        # Arguments declared as Component are built by the callable, which may pass them further arguments.
        lazy_params = {name for name, p in parameters(fn).items() if contains_components(p.type)}
        built = {
            key: value if key in kwargs or key in lazy_params else _build_nested(value, (key,))
            for key, value in keywords.items()
        }
        names = [p.name for p in parameters(fn).values() if p.positional][: len(component.args)]
        positional = tuple(
            value if names[i : i + 1] and names[i] in lazy_params else _build_nested(value, (i,))
            for i, value in enumerate(component.args)
        )
    except InstantiationError as error:
        if error.location is not None:
            raise
        raise InstantiationError(f"{name}: {error.message}") from error.__cause__
    arguments = (*positional, *args)
    _check_call(fn, name, arguments, built)
    positional_only = [p.name for p in parameters(fn).values() if p.only_positional][len(arguments) :]
    arguments += tuple(built.pop(name) for name in itertools.takewhile(built.__contains__, positional_only))
    try:
        return fn(*arguments, **built)
    except Exception as error:
        raise InstantiationError(f"{name}: {message_of(error)}") from error


def _build_nested(value: Any, path: Path) -> Any:
    """Return a copy of a value in which all components have been built."""
    if isinstance(value, functools.partial):
        try:
            return _build(value, (), {})
        except InstantiationError as error:
            if error.location is not None:
                raise
            with_path = InstantiationError(f"{dotted(path)}: {error.message}")
            raise _located(error if read_at(value) else with_path, value) from error.__cause__
    if isinstance(value, Mapping) and COMPONENT_KEY in value:
        return instantiate(value)
    if isinstance(value, dict):
        return {key: _build_nested(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_build_nested(item, (*path, i)) for i, item in enumerate(value))
    if is_reference(value):
        message = f"{dotted(path)}: {value} is not resolved; call torchtune.config.resolve(cfg) first"
        raise InstantiationError(message)
    return copy_tree(value)


def _check_call(fn: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Check for missing, duplicate and unknown arguments before calling the component."""
    params = parameters(fn)
    if not params and accepts_kwargs(fn):
        return
    by_position = {p.name for p in [p for p in params.values() if p.positional][: len(args)]}
    duplicates = sorted(by_position & kwargs.keys())
    if duplicates:
        raise InstantiationError(f"{name}: {duplicates[0]!r} is passed by position and by name")
    missing = [
        p.name for p in params.values() if p.required and p.name not in by_position and p.name not in kwargs
    ]
    if missing:
        raise InstantiationError(
            f"{name} requires {', '.join(map(repr, missing))}; set it, or pass it to instantiate"
        )
    unknown = [key for key in kwargs if key not in params]
    if unknown and not accepts_kwargs(fn):
        suggestion = did_you_mean(unknown[0], params)
        raise InstantiationError(with_suggestion(f"{name} has no argument {unknown[0]!r}", suggestion))


def _name(fn: Callable[..., Any]) -> str:
    try:
        return dotpath(fn)
    except ValueError:
        return getattr(fn, "__qualname__", repr(fn))
