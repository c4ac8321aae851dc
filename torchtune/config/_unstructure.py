"""Convert config objects to mappings, lists and scalars that YAML can represent."""

import datetime as dt
import enum
import functools
import numbers
import typing
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import attrs
import cattrs

from torchtune.config._classes import fields
from torchtune.config._component import COMPONENT_KEY, bound_keywords, flatten
from torchtune.config._dotpath import dotpath
from torchtune.config._interpolation import Text
from torchtune.config._mistakes import Mistake, Path, RejectedError
from torchtune.config._tree import BROKEN, Broken
from torchtune.config._types import SCALARS, article, is_section, is_torch_name, members, sections_of, strip


class KeyText(str):
    """The string form of a key that is not a string; valid only if the mapping's type declares the key type."""

    __slots__ = ()


_IN_PROGRESS: set[int] = set()
"""The ids of the sections being converted, to detect a section that contains itself."""


@functools.cache
def _converter() -> cattrs.Converter:
    conv = cattrs.Converter()
    conv.register_unstructure_hook(Broken, lambda value: value)
    conv.register_unstructure_hook_func(is_section, _tree_of_section)
    conv.register_unstructure_hook_func(lambda t: issubclass(t, functools.partial), _tree_of_component)
    conv.register_unstructure_hook_func(lambda t: issubclass(t, PurePath), str)
    conv.register_unstructure_hook_func(is_torch_name, str)
    conv.register_unstructure_hook(Text, lambda value: value.replace("${", "$${"))
    conv.register_unstructure_hook(tuple, lambda value: [conv.unstructure(v) for v in value])
    conv.register_unstructure_hook_func(
        lambda t: issubclass(t, (set, frozenset)), lambda value: _sorted(conv.unstructure(v) for v in value)
    )
    return conv


def unstructure(value: Any) -> Any:
    """Convert a config object to a tree of mappings, lists and scalars.

    Raises:
        RejectedError: YAML cannot represent the object; contains a mistake for each such value.
    """
    tree, mistakes = unstructure_partially(value)
    if mistakes:
        raise RejectedError(*mistakes)
    return tree


def unstructure_partially(value: Any) -> tuple[Any, list[Mistake]]:
    """Convert a config object to a tree, with BROKEN in place of each value that YAML cannot represent.

    Returns:
        The tree, and a mistake for each such value.
    """
    try:
        tree = _plain_values(_converter().unstructure(value))
    except RecursionError:
        return BROKEN, [_TOO_DEEP]
    mistakes = list(_unwritable(tree, ()))
    return (_with_broken(tree, {m.path for m in mistakes}, ()) if mistakes else tree), mistakes


def _with_broken(tree: Any, broken: set[Path], path: Path) -> Any:
    """Return a tree with BROKEN at the given paths."""
    if path in broken:
        return BROKEN
    if isinstance(tree, dict):
        return {key: _with_broken(value, broken, (*path, str(key))) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_broken(value, broken, (*path, i)) for i, value in enumerate(tree)]
    return tree


def _plain_values(tree: Any) -> Any:
    """Replace enum members that are also strings or numbers with their values, because cattrs keeps them."""
    if isinstance(tree, dict):
        result = {_key_text(key): _plain_values(value) for key, value in tree.items()}
        mistake = Mistake("unwritable", "two keys have the same text in YAML")
        return result if len(result) == len(tree) else _Unwritable(mistake)
    if isinstance(tree, list):
        return [_plain_values(value) for value in tree]
    return tree.value if isinstance(tree, enum.Enum) else tree


def _key_text(key: Any) -> Any:
    """Return the YAML text of a key that is a number, a bool or an enum member; other keys are returned unchanged."""
    key = key.value if isinstance(key, enum.Enum) else key
    if isinstance(key, bool):
        return KeyText("true" if key else "false")
    return KeyText(key) if type(key) in (int, float) else key


def _unwritable(tree: Any, path: Path) -> typing.Iterator[Mistake]:
    if isinstance(tree, _Unwritable):
        yield tree.mistake._replace(path=path)
    elif tree is BROKEN:
        return
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            if not isinstance(key, str):
                yield Mistake("unwritable", f"a key must be text, got {key!r}", path=path)
            yield from _unwritable(value, (*path, str(key)))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _unwritable(value, (*path, i))
    elif type(tree) not in SCALARS:
        description, hint = _advice(tree)
        yield Mistake("unwritable", f"{description} cannot be written to YAML", hint, path)


def _advice(value: Any) -> tuple[str, str]:
    """Return the description of a value that YAML cannot represent, and a suggested replacement."""
    if isinstance(value, type):
        return f"the class {value.__name__}", f"use lazy({value.__name__}, ...)"
    description = f"a value of type {type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, (numbers.Number, bytes, dt.date, complex)):
        return description, "use text or a number"
    return description, "describe it with lazy(...) instead of building it"


@attrs.frozen
class _Unwritable:
    """A placeholder for a value that YAML cannot represent, until all mistakes are collected."""

    mistake: Mistake


_TOO_DEEP = Mistake("unwritable", "the value contains itself, or is nested too deeply")


def _tree_of_section(section: Any) -> Any:
    if id(section) in _IN_PROGRESS:
        return _Unwritable(Mistake("unwritable", "the value contains itself"))
    _IN_PROGRESS.add(id(section))
    try:
        return {name: _tree_of_field(section, name) for name in fields(section.__class__)}
    finally:
        _IN_PROGRESS.remove(id(section))


def _tree_of_field(section: Any, name: str) -> Any:
    if not hasattr(section, name):
        return _Unwritable(Mistake("unwritable", "the field was deleted", "a config must set every field"))
    value = getattr(section, name)
    try:
        tree = _converter().unstructure(value)
        for mistake in _section_mismatches(fields(section.__class__)[name].type, value, ()):
            tree = _replaced(tree, mistake.path, _Unwritable(mistake))
    except RecursionError:
        return _Unwritable(_TOO_DEEP)
    return tree


def _section_mismatches(t: Any, value: Any, path: Path) -> typing.Iterator[Mistake]:
    """Yield a mistake for each section whose class is not part of the declared type."""
    kind = type(value)
    if is_section(kind):
        expected_classes = sections_of(t)
        # Classes are compared by name, because a copied recipe defines its own classes.
        names = {c.__qualname__ for c in kind.__mro__}
        if expected_classes and not any(c.__qualname__ in names for c in expected_classes):
            expected, got = article(expected_classes[0].__name__), article(kind.__name__)
            yield Mistake("wrong_type", path=path, expected=expected, got=got)
        return
    inner = [a for m in members(strip(t)) for a in typing.get_args(m)]
    items: typing.Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        for argument in inner:
            if sections_of(argument) or typing.get_args(argument):
                yield from _section_mismatches(argument, item, (*path, key))
                break


def _replaced(tree: Any, path: Path, value: Any) -> Any:
    """Return a tree with `value` at a path."""
    if not path:
        return value
    key, *remaining = path
    if isinstance(tree, dict):
        return {k: _replaced(v, tuple(remaining), value) if k == key else v for k, v in tree.items()}
    return [_replaced(v, tuple(remaining), value) if i == key else v for i, v in enumerate(tree)]


def _sorted(values: typing.Iterable[Any]) -> list[Any]:
    """Sort the values of a set; mixed types are sorted by their repr."""
    items = list(values)
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=repr)


def _tree_of_component(component: "functools.partial[Any]") -> Any:
    try:
        keywords = bound_keywords(component)
        path = dotpath(flatten(component).func)
    except (TypeError, ValueError) as error:
        return _Unwritable(Mistake("unwritable", str(error)))
    unstructure_argument = _converter().unstructure
    return {COMPONENT_KEY: path, **{name: unstructure_argument(value) for name, value in keywords.items()}}
