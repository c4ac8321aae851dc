"""From config objects to mappings, lists and scalars that YAML can hold."""

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
from torchtune.config._component import COMPONENT_KEY, bound_keywords, flattened
from torchtune.config._dotpath import dotpath
from torchtune.config._interpolation import Text
from torchtune.config._mistakes import Mistake, Path, RejectedError
from torchtune.config._tree import BROKEN, Broken
from torchtune.config._types import SCALARS, article, is_section, is_torch_name, members, sections_of, strip


class KeyText(str):
    """The text of a key that was no text; it may stand only where the mapping's type says what it was."""

    __slots__ = ()


_BUSY: set[int] = set()
"""The sections that are being written, by identity; one that is met again contains itself."""


@functools.cache
def _converter() -> cattrs.Converter:
    made = cattrs.Converter()
    made.register_unstructure_hook(Broken, lambda value: value)
    made.register_unstructure_hook_func(is_section, _tree_of_section)
    made.register_unstructure_hook_func(lambda t: issubclass(t, functools.partial), _tree_of_component)
    made.register_unstructure_hook_func(lambda t: issubclass(t, PurePath), str)
    made.register_unstructure_hook_func(is_torch_name, str)
    made.register_unstructure_hook(Text, lambda value: value.replace("${", "$${"))
    made.register_unstructure_hook(tuple, lambda value: [made.unstructure(v) for v in value])
    made.register_unstructure_hook_func(
        lambda t: issubclass(t, (set, frozenset)), lambda value: _in_order(made.unstructure(v) for v in value)
    )
    return made


def unstructure(value: Any) -> Any:
    """Turn a config object into a tree of mappings, lists and scalars that YAML can hold.

    Raises:
        RejectedError: With every value that YAML cannot hold.
    """
    tree, mistakes = unstructure_what_can_be(value)
    if mistakes:
        raise RejectedError(*mistakes)
    return tree


def unstructure_what_can_be(value: Any) -> tuple[Any, list[Mistake]]:
    """Turn a config object into a tree in which BROKEN stands for what YAML cannot hold.

    Returns:
        The tree, and a mistake for every such value.
    """
    try:
        tree = _by_value(_converter().unstructure(value))
    except RecursionError:
        return BROKEN, [_TOO_DEEP]
    mistakes = list(_unwritable(tree, ()))
    return (_marked(tree, {m.path for m in mistakes}, ()) if mistakes else tree), mistakes


def _marked(tree: Any, broken: set[Path], path: Path) -> Any:
    """Return a tree with BROKEN at some of its places."""
    if path in broken:
        return BROKEN
    if isinstance(tree, dict):
        return {key: _marked(value, broken, (*path, str(key))) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_marked(value, broken, (*path, i)) for i, value in enumerate(tree)]
    return tree


def _by_value(tree: Any) -> Any:
    """Put its value in the place of an enum's member that is text or a number as well, which cattrs lets pass."""
    if isinstance(tree, dict):
        found = {_key_text(key): _by_value(value) for key, value in tree.items()}
        same = Mistake("unwritable", "two of its keys are the same text in YAML")
        return found if len(found) == len(tree) else _Unwritable(same)
    if isinstance(tree, list):
        return [_by_value(value) for value in tree]
    return tree.value if isinstance(tree, enum.Enum) else tree


def _key_text(key: Any) -> Any:
    """Return the text of a key that is a number, true or false, or an enum's member, as YAML holds it."""
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
        what, hint = _advice(tree)
        yield Mistake("unwritable", f"{what} cannot be written to YAML", hint, path)


def _advice(value: Any) -> tuple[str, str]:
    """Return what a value is that YAML cannot hold, and what to write instead."""
    if isinstance(value, type):
        return f"the class {value.__name__}", f"write lazy({value.__name__}, ...)"
    what = f"a value of type {type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, (numbers.Number, bytes, dt.date, complex)):
        return what, "write it as text or a number"
    return what, "describe it with lazy(...) instead of building it"


@attrs.frozen
class _Unwritable:
    """Stands in a tree for what cannot be written, until every such place is known."""

    mistake: Mistake


_TOO_DEEP = Mistake("unwritable", "it contains itself, or is nested too deeply")


def _tree_of_section(section: Any) -> Any:
    if id(section) in _BUSY:
        return _Unwritable(Mistake("unwritable", "it contains itself"))
    _BUSY.add(id(section))
    try:
        return {name: _tree_of_field(section, name) for name in fields(section.__class__)}
    finally:
        _BUSY.remove(id(section))


def _tree_of_field(section: Any, name: str) -> Any:
    if not hasattr(section, name):
        return _Unwritable(Mistake("unwritable", "was deleted", "a config has all its fields"))
    value = getattr(section, name)
    try:
        tree = _converter().unstructure(value)
        for mistake in _of_another_class(fields(section.__class__)[name].type, value, ()):
            tree = _with(tree, mistake.path, _Unwritable(mistake))
    except RecursionError:
        return _Unwritable(_TOO_DEEP)
    return tree


def _of_another_class(t: Any, value: Any, path: Path) -> typing.Iterator[Mistake]:
    """Yield a mistake for each section in a value that is of a class which the type does not have."""
    kind = type(value)
    if is_section(kind):
        wanted = sections_of(t)
        names = {
            c.__qualname__ for c in kind.__mro__
        }  # by name, since a copied recipe has classes of its own
        if wanted and not any(w.__qualname__ in names for w in wanted):
            expected, got = article(wanted[0].__name__), article(kind.__name__)
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
                yield from _of_another_class(argument, item, (*path, key))
                break


def _with(tree: Any, path: Path, value: Any) -> Any:
    """Return a tree with another value at a place."""
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, dict):
        return {k: _with(v, tuple(rest), value) if k == key else v for k, v in tree.items()}
    return [_with(v, tuple(rest), value) if i == key else v for i, v in enumerate(tree)]


def _in_order(values: typing.Iterable[Any]) -> list[Any]:
    """Sort what a set held; values of several kinds by what they look like."""
    found = list(values)
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=repr)


def _tree_of_component(component: "functools.partial[Any]") -> Any:
    try:
        keywords = bound_keywords(component)
        path = dotpath(flattened(component).func)
    except (TypeError, ValueError) as error:
        return _Unwritable(Mistake("unwritable", str(error)))
    back = _converter().unstructure
    return {COMPONENT_KEY: path, **{name: back(value) for name, value in keywords.items()}}
