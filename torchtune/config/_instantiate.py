"""Building what a config describes."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from torchtune.config._classes import message_of
from torchtune.config._component import COMPONENT_KEY, Component, flattened, is_component, read_at, written_at
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
    hinted,
)
from torchtune.config._node import place_of, root_of, tree_of
from torchtune.config._signature import parameters, swallows_keywords
from torchtune.config._source_lines import location_of_call
from torchtune.config._structure import converter
from torchtune.config._tree import copied
from torchtune.config._types import holds_components

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

    Components among its arguments, in lists and mappings too, are built first, but for those of arguments that are
    declared as `Component`. What is given is never changed.

    Args:
        component: A lazy, a `functools.partial`, or a mapping with `_component_`; None gives None.
        *args: Positional arguments, put after those of the component, as calling a partial does.
        **kwargs: Keyword arguments; they win over the config's.

    Raises:
        InstantiationError: The component cannot be built; it says which component and argument, and where it was
            written; an exception of its own code is the `__cause__`.
    """
    if component is None:
        return None
    if not is_component(component):
        why = f"instantiate takes a component, a lazy or a mapping with {COMPONENT_KEY}, not {component!r}"
        raise _located(InstantiationError(why), component)
    try:
        made = _from_mapping(component) if isinstance(component, Mapping) else component
        return _build(made, args, kwargs)
    except InstantiationError as error:
        raise _located(error, component) from error.__cause__


def _located(error: InstantiationError, component: Any) -> InstantiationError:
    """Add where a component was written, unless one inside it failed, whose location is known already."""
    if error.location is None:
        error.location, error.path = _where(component)
    return error


def _where(component: Any) -> tuple[Location | None, Path]:
    """Return where a component was written, and its path in its config; None where it is not known."""
    found = place_of(component) or read_at(component)
    if found:
        return found
    written = written_at(component)
    if written is None or written[0].co_filename.startswith(_OWN_FOLDER):
        return None, ()
    return location_of_call(*written), ()


def _from_mapping(component: Mapping[str, Any]) -> Any:
    """Turn a mapping into a lazy, its references resolved against the config that it belongs to."""
    tree, root = tree_of(component), root_of(component)
    try:
        if root is not None:
            tree, unresolved = resolve_tree(tree, root)
            if unresolved:
                raise RejectedError(*unresolved)
        return structure_component(tree, Any, converter(references=True), incomplete=True)
    except RejectedError as rejected:
        raise InstantiationError("; ".join(map(str, rejected.mistakes))) from None


def _build(component: "functools.partial[Any]", args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    component = flattened(component)
    fn = component.func
    name = _name(fn)
    keywords = {**component.keywords, **kwargs}
    try:
        # A callable that asks for components builds them itself, such as one that passes something on to each.
        asked = {name for name, p in parameters(fn).items() if holds_components(p.type)}
        given = {
            key: value if key in kwargs or key in asked else _built(value, (key,))
            for key, value in keywords.items()
        }
        filled = [p.name for p in parameters(fn).values() if p.positional][: len(component.args)]
        positional = tuple(
            value if filled[i : i + 1] and filled[i] in asked else _built(value, (i,))
            for i, value in enumerate(component.args)
        )
    except InstantiationError as error:
        if error.location is not None:
            raise
        raise InstantiationError(f"{name}: {error.message}") from error.__cause__
    arguments = (*positional, *args)
    _check_call(fn, name, arguments, given)
    only = [p.name for p in parameters(fn).values() if p.only_positional][len(arguments) :]
    arguments += tuple(given.pop(name) for name in itertools.takewhile(given.__contains__, only))
    try:
        return fn(*arguments, **given)
    except Exception as error:
        raise InstantiationError(f"{name}: {message_of(error)}") from error


def _built(value: Any, path: Path) -> Any:
    """Build the components in a value, leaving the value itself unchanged."""
    if isinstance(value, functools.partial):
        try:
            return _build(value, (), {})
        except InstantiationError as error:
            if error.location is not None:
                raise
            inside = InstantiationError(f"{dotted(path)}: {error.message}")
            raise _located(error if read_at(value) else inside, value) from error.__cause__
    if isinstance(value, Mapping) and COMPONENT_KEY in value:
        return instantiate(value)
    if isinstance(value, dict):
        return {key: _built(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_built(item, (*path, i)) for i, item in enumerate(value))
    if is_reference(value):
        raise InstantiationError(
            f"{dotted(path)}: {value} is not resolved; call torchtune.config.resolve(cfg) first"
        )
    return copied(value)


def _check_call(fn: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Find missing, doubled and unknown arguments before the component's own code runs."""
    known = parameters(fn)
    if not known and swallows_keywords(fn):
        return
    positional = [p.name for p in known.values() if p.positional]
    filled = set(positional[: len(args)])
    twice = sorted(filled & kwargs.keys())
    if twice:
        raise InstantiationError(f"{name}: {twice[0]!r} is passed by position and by name")
    missing = [p.name for p in known.values() if p.required and p.name not in filled and p.name not in kwargs]
    if missing:
        raise InstantiationError(
            f"{name} needs {', '.join(map(repr, missing))}; pass it to instantiate or set it"
        )
    unknown = [key for key in kwargs if key not in known]
    if unknown and not swallows_keywords(fn):
        near = did_you_mean(unknown[0], known)
        raise InstantiationError(hinted(f"{name} takes no {unknown[0]!r}", near))


def _name(fn: Callable[..., Any]) -> str:
    try:
        return dotpath(fn)
    except ValueError:
        return getattr(fn, "__qualname__", repr(fn))
