"""From mappings, lists and scalars to typed config objects, strictly, and back.

cattrs dispatches on types; every hook here is strict (no scalar changes its type) and reports every problem
below its value at once, as a `RejectedError`.
"""

import enum
import functools
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal

import attrs
import cattrs

from torchtune.config._classes import fields, structure_section
from torchtune.config._component import COMPONENT_KEY, bound_keywords
from torchtune.config._components import structure_component
from torchtune.config._dotpath import dotpath
from torchtune.config._interpolation import Text, is_reference
from torchtune.config._mistakes import Path as TreePath
from torchtune.config._mistakes import Problem, RejectedError, below, did_you_mean, reject
from torchtune.config._tree import is_component_tree
from torchtune.config._types import (
    SCALARS,
    describe,
    is_anything,
    is_collection_type,
    is_component_type,
    is_mapping_type,
    is_section,
    is_set_type,
    is_torch_name,
    is_union,
    members,
    passed_in,
    storable,
    strip,
)

Hook = Callable[[Any, Any], Any]


@functools.lru_cache(maxsize=2)
def converter(*, references: bool) -> cattrs.Converter:
    """Return the converter between trees and config objects.

    Args:
        references: Let `${...}` stand for a value of any type, as it does in a config that is not resolved yet.
    """
    made = cattrs.Converter()
    for fits, factory in _FACTORIES:
        made.register_structure_hook_factory(fits, functools.partial(_guarded, factory, made, references))
    for scalar in SCALARS:  # cattrs looks here before it asks a factory
        made.register_structure_hook(scalar, _guarded(_scalar, made, references, scalar))
    made.register_structure_hook(Path, _guarded(_path, made, references, Path))
    made.register_unstructure_hook_func(
        is_section,
        lambda value: {name: made.unstructure(getattr(value, name)) for name in fields(value.__class__)},
    )
    made.register_unstructure_hook_func(lambda t: issubclass(t, functools.partial), _tree_of_component)
    made.register_unstructure_hook_func(lambda t: issubclass(t, PurePath), str)
    made.register_unstructure_hook_func(is_torch_name, str)
    made.register_unstructure_hook(Text, lambda value: value.replace("${", "$${"))
    made.register_unstructure_hook(tuple, lambda value: [made.unstructure(v) for v in value])
    made.register_unstructure_hook_func(
        lambda t: issubclass(t, (set, frozenset)), lambda value: sorted(made.unstructure(v) for v in value)
    )
    return made


def structure(tree: Any, wanted: Any, *, references: bool = False) -> Any:
    """Turn a tree into an object of a type.

    Raises:
        RejectedError: With every problem in the tree.
    """
    return converter(references=references).structure(tree, wanted)


def check_untyped(tree: Any) -> None:
    """Check what can be known of a tree without a config class: its components and their arguments.

    Raises:
        RejectedError: With every problem in the tree.
    """
    if is_component_tree(tree):
        structure_component(tree, Any, converter(references=False), incomplete=True)
    elif isinstance(tree, Mapping):
        _each(tree.items(), check_untyped, dict)
    elif isinstance(tree, list):
        _each(enumerate(tree), check_untyped, list)


def unstructure(value: Any) -> Any:
    """Turn a config object into a tree of mappings, lists and scalars that YAML can hold.

    Raises:
        RejectedError: With every value that YAML cannot hold.
    """
    tree = _by_value(converter(references=True).unstructure(value))
    if problems := list(_unwritable(tree, ())):
        raise RejectedError(*problems)
    return tree


def _by_value(tree: Any) -> Any:
    """Put its value in the place of an enum's member that is text or a number as well, which cattrs lets pass."""
    if isinstance(tree, dict):
        return {key: _by_value(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_by_value(value) for value in tree]
    return tree.value if isinstance(tree, enum.Enum) else tree


def _unwritable(tree: Any, path: TreePath) -> typing.Iterator[Problem]:
    if isinstance(tree, _Unwritable):
        yield Problem(path, tree.why)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            if not isinstance(key, str):
                yield Problem(path, f"a key must be text, got {key!r}")
            yield from _unwritable(value, (*path, str(key)))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _unwritable(value, (*path, i))
    elif type(tree) not in SCALARS:
        kind = f"{type(tree).__module__}.{type(tree).__qualname__}"
        if isinstance(tree, type):
            yield Problem(
                path, f"the class {tree.__name__} cannot be written to YAML; write lazy({tree.__name__}, ...)"
            )
        else:
            hint = "describe it with lazy(...) instead of building it"
            yield Problem(path, f"a value of type {kind} cannot be written to YAML; {hint}")


@attrs.frozen
class _Unwritable:
    """Stands in a tree for what cannot be written, until every such place is known."""

    why: str


def _tree_of_component(component: "functools.partial[Any]") -> Any:
    try:
        keywords = bound_keywords(component)
        path = dotpath(component.func)
    except (TypeError, ValueError) as error:
        return _Unwritable(str(error))
    back = converter(references=True).unstructure
    return {COMPONENT_KEY: path, **{name: back(value) for name, value in keywords.items()}}


# Structure hooks: a factory makes the hook of one type, once.


def _guarded(factory: Callable[..., Hook], made: cattrs.Converter, references: bool, t: Any) -> Hook:
    """Let references pass where they may, and turn exceptions of a user's own hooks into problems."""
    hook = factory(t, made)

    def guarded(value: Any, wanted: Any) -> Any:
        if references and is_reference(value):
            return value
        try:
            return hook(value, wanted)
        except (TypeError, ValueError) as error:
            raise reject(str(error)) from error

    return guarded


def _wrong(t: Any, value: Any) -> RejectedError:
    return reject(f"expected {describe(t)}, got {shown(value)}")


def shown(value: Any) -> str:
    """Show a value in a message, cut where it is long; mappings and lists as what they are."""
    if isinstance(value, Mapping):
        return "a component" if COMPONENT_KEY in value else "a mapping"
    text = repr(value)
    if value is None or isinstance(value, bool):
        text = {"None": "null"}.get(text, text.lower())
    return f"{text[:57]}..." if len(text) > 60 else text


def _scalar(t: Any, made: cattrs.Converter) -> Hook:
    def hook(value: Any, wanted: Any) -> Any:
        if _is_class(wanted, enum.Enum):  # cattrs finds this hook for an IntEnum and a StrEnum as well
            return _enum(wanted, made)(value, wanted)
        if type(value) is t or (t is str and isinstance(value, Text)):
            return value
        if t is float and type(value) is int and abs(value) <= sys.float_info.max:
            return float(value)
        raise _wrong(t, value)

    return hook


def _anything(_t: Any, made: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, Mapping):
            if COMPONENT_KEY in value:
                return structure_component(value, Any, made)
            return _each(value.items(), lambda v: hook(v, _), dict)
        if isinstance(value, list):
            return _each(enumerate(value), lambda v: hook(v, _), list)
        return _dtype_named(value) or value

    return hook


def _dtype_named(value: Any) -> Any:
    """Return the dtype that `torch.bfloat16` names where nothing is annotated, as in torch.nn.Linear; else None."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, str) or not value.startswith("torch."):
        return None
    found = getattr(torch, value.removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None


def _each(items: typing.Iterable[tuple[Any, Any]], read: Callable[[Any], Any], kind: type) -> Any:
    """Read every value of a collection, collecting the problems of all."""
    found, problems = {}, []
    for key, value in items:
        try:
            found[key] = read(value)
        except RejectedError as rejected:
            problems += below(key, rejected)
    if problems:
        raise RejectedError(*problems)
    return found if kind is dict else kind(found.values())


def _literal(t: Any, _: cattrs.Converter) -> Hook:
    choices = typing.get_args(t)

    def hook(value: Any, _: Any) -> Any:
        for choice in choices:
            plain = choice.value if isinstance(choice, enum.Enum) else choice
            if type(value) is type(plain) and value == plain:
                return choice
        near = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise reject(f"expected {describe(t)}, got {shown(value)}{near}")

    return hook


def _enum(t: Any, made: cattrs.Converter) -> Hook:
    return _literal(Literal[tuple(t)], made)


def _path(t: Any, _: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, str):
            return t(value)
        raise _wrong(t, value)

    return hook


def _torch_name(t: Any, _: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        torch = sys.modules["torch"]
        if not isinstance(value, str):
            raise _wrong(t, value)
        if t.__name__ == "device":
            try:
                return torch.device(value)
            except RuntimeError:  # of torch, with all the kinds of device that there are
                raise _wrong(t, value) from None
        found = getattr(torch, value.removeprefix("torch."), None)
        if not isinstance(found, t):
            raise _wrong(t, value)
        return found

    return hook


def _union(t: Any, made: cattrs.Converter) -> Hook:
    # An exact scalar type wins, so that 3 stays an int in `int | float`; text comes last.
    options = sorted(members(t), key=lambda m: (m is str, m is float))

    def hook(value: Any, _: Any) -> Any:
        if value is None and type(None) in options:
            return None
        rejections: list[RejectedError] = []
        for option in options:
            try:
                return made.structure(value, option)
            except RejectedError as rejected:
                rejections.append(rejected)
        # The member that got furthest below the value is the one that was meant.
        deep = [r for r in rejections if any(p.path for p in r.problems) or isinstance(value, Mapping)]
        if len(deep) == 1 or (deep and len(options) <= 2):
            raise deep[0]
        raise _wrong(t, value)

    return hook


def _mapping(t: Any, made: cattrs.Converter) -> Hook:
    value_type = storable((*typing.get_args(t), Any, Any)[1]) if typing.get_args(t) else Any

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(t, value)
        return _each(value.items(), lambda v: made.structure(v, value_type), dict)

    return hook


def _collection(t: Any, made: cattrs.Converter) -> Hook:
    args = typing.get_args(t)
    origin = typing.get_origin(t) or t
    kind = origin if origin in (list, tuple, set, frozenset) else frozenset if is_set_type(t) else list
    fixed = origin is tuple and bool(args) and Ellipsis not in args
    item = storable(args[0]) if args else Any

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, list) or (fixed and len(value) != len(args)):
            raise _wrong(t, value)
        if fixed:
            types = iter(args)
            return _each(enumerate(value), lambda v: made.structure(v, storable(next(types))), tuple)
        return _each(enumerate(value), lambda v: made.structure(v, item), kind)

    return hook


def _section(t: Any, made: cattrs.Converter) -> Hook:
    return lambda value, _: structure_section(value, t, made)


def _component(t: Any, made: cattrs.Converter) -> Hook:
    bare = strip(t)
    wanted = (
        typing.get_args(bare)[0]
        if typing.get_args(bare)
        else Any
        if bare is not t or is_component_type(t)
        else t
    )
    passed = passed_in(t)
    return lambda value, _: structure_component(value, wanted, made, passed)


def _built(t: Any, made: cattrs.Converter) -> Hook:
    """Any other class is what a nested component builds."""
    return lambda value, _: structure_component(value, t, made)


def _is_class(t: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(t, type) and issubclass(t, kind)


# cattrs asks the last registered first.
_FACTORIES: list[tuple[Callable[[Any], bool], Callable[..., Hook]]] = [
    (lambda _: True, _built),
    (is_section, _section),
    (is_collection_type, _collection),
    (is_mapping_type, _mapping),
    (is_union, _union),
    (is_torch_name, _torch_name),
    (lambda t: _is_class(t, PurePath), _path),
    (lambda t: _is_class(t, enum.Enum), _enum),
    (lambda t: typing.get_origin(t) is Literal, _literal),
    (is_anything, _anything),
    (is_component_type, _component),
]
