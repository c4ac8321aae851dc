"""From mappings, lists and scalars to typed config objects, strictly; `_unstructure` is the way back.

cattrs dispatches on types; every hook here is strict (no scalar changes its type) and reports every mistake
below its value at once, as a `RejectedError`.
"""

import enum
import functools
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal

import cattrs

from torchtune.config._classes import structure_section
from torchtune.config._component import COMPONENT_KEY
from torchtune.config._components import structure_component
from torchtune.config._interpolation import Text, is_reference
from torchtune.config._mistakes import Mistake, RejectedError, below, did_you_mean, reject, unknown
from torchtune.config._schema import section_of
from torchtune.config._signature import type_hints
from torchtune.config._tree import BROKEN, is_component_tree
from torchtune.config._types import (
    SCALARS,
    alias_of,
    choices,
    describe,
    is_anything,
    is_collection_type,
    is_component_type,
    is_mapping_type,
    is_section,
    is_set_type,
    is_storable,
    is_torch_name,
    is_union,
    members,
    passed_in,
    push_down,
    sections_of,
    storable,
    strip,
)
from torchtune.config._unstructure import KeyText
from torchtune.config._yaml import plain_scalar

Hook = Callable[[Any, Any], Any]


@functools.lru_cache(maxsize=2)
def converter(*, references: bool) -> cattrs.Converter:
    """Return the converter from trees to config objects.

    Args:
        references: Let `${...}` stand for a value of any type, as it does in a config that is not resolved yet.
    """
    made = cattrs.Converter()
    for fits, factory in _FACTORIES:
        made.register_structure_hook_factory(fits, functools.partial(_guarded, factory, made, references))
    for scalar in SCALARS:  # cattrs looks here before it asks a factory
        made.register_structure_hook(scalar, _guarded(_scalar, made, references, scalar))
    made.register_structure_hook(Path, _guarded(_path, made, references, Path))
    return made


def structure(tree: Any, wanted: Any, *, references: bool = False) -> Any:
    """Turn a tree into an object of a type.

    Raises:
        RejectedError: With every mistake in the tree.
    """
    return converter(references=references).structure(tree, wanted)


def check_untyped(tree: Any) -> None:
    """Check what can be known of a tree without a config class: its components and their arguments.

    Raises:
        RejectedError: With every mistake in the tree.
    """
    if is_component_tree(tree):
        structure_component(tree, Any, converter(references=False), incomplete=True)
    elif isinstance(tree, Mapping):
        _each(tree.items(), check_untyped, dict)
    elif isinstance(tree, list):
        _each(enumerate(tree), check_untyped, list)


# Structure hooks: a factory makes the hook of one type, once.


def _guarded(factory: Callable[..., Hook], made: cattrs.Converter, references: bool, t: Any) -> Hook:
    """Let references pass where they may, and turn exceptions of a user's own hooks into mistakes."""
    hook = factory(t, made)

    def guarded(value: Any, wanted: Any) -> Any:
        if value is BROKEN:
            raise reject("consequence")
        if references and is_reference(value):
            return value
        try:
            return hook(value, wanted)
        except (TypeError, ValueError) as error:
            raise reject("rule", str(error)) from error

    return guarded


def _wrong(t: Any, value: Any) -> RejectedError:
    near = did_you_mean(value, _names(t)) if isinstance(value, str) else ""
    return RejectedError(Mistake("wrong_type", "", near, expected=describe(t), got=shown(value)))


def _names(t: Any) -> list[str]:
    """Return the texts that a type spells out, for suggestions."""
    dtypes = [kind for m in (typing.get_args(t) if is_union(t) else (t,)) if is_torch_name(m) for kind in [m]]
    torch = sys.modules.get("torch")
    named = [name for name, kind in vars(torch).items() if isinstance(kind, tuple(dtypes))] if dtypes else []
    return [*(c for c in choices(t) if isinstance(c, str)), *named]


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
    """Read every value of a collection, collecting the mistakes of all."""
    found, mistakes = {}, []
    for key, value in items:
        try:
            found[key] = read(value)
        except RejectedError as rejected:
            mistakes += below(key, rejected)
    if mistakes:
        raise RejectedError(*mistakes)
    return found if kind is dict else kind(found.values())


def _literal(t: Any, _: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        for choice in typing.get_args(t):
            plain = choice.value if isinstance(choice, enum.Enum) else choice
            if type(value) is type(plain) and value == plain:
                return choice
        raise _wrong(t, value)

    return hook


def _enum(t: Any, made: cattrs.Converter) -> Hook:
    return _literal(Literal[tuple(t)], made)


def _path(t: Any, _: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, str) and value:  # an empty one would be the working folder
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
    options = sorted(typing.get_args(t), key=lambda m: (m is str, m is float))

    def hook(value: Any, _: Any) -> Any:
        if value is None and type(None) in options:
            return None
        rejections: list[RejectedError] = []
        for option in options:
            if not _may_hold(option, value):
                continue
            try:
                return made.structure(value, option)
            except RejectedError as rejected:
                rejections.append(rejected)
        if len(rejections) == 1 and not _is_plain(value):  # the only member that was meant; it says most
            raise rejections[0]
        # The member that got furthest below the value is the one that was meant.
        deep = [r for r in rejections if any(m.path for m in r.mistakes)]
        if len(deep) == 1 and len(sections_of(t)) < 2:
            raise deep[0]
        section = section_of(t, value) if deep and isinstance(value, Mapping) else None
        if section:
            made.structure(value, section)  # of several sections, what is wrong with the likeliest
        raise _wrong(t, value)

    return hook


def _is_plain(value: Any) -> bool:
    return not isinstance(value, (Mapping, list))


def _may_hold(t: Any, value: Any) -> bool:
    """Tell whether a value has the shape of a type: a component, a mapping, a list or a scalar."""
    if is_anything(t) or is_union(t):
        return True
    if is_component_tree(value):
        return is_component_type(t) or not is_storable(t)
    if isinstance(value, Mapping):
        return is_section(t) or is_mapping_type(t) or is_component_type(t)
    if isinstance(value, list):
        return is_collection_type(t)
    return is_storable(t) and not (is_section(t) or is_mapping_type(t) or is_collection_type(t))


def _mapping(t: Any, made: cattrs.Converter) -> Hook:
    if typing.is_typeddict(t):
        return _typed_dict(t, made)
    key_type, value_type = (storable(a) for a in typing.get_args(t) or (Any, Any))

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping) or COMPONENT_KEY in value:
            raise _wrong(t, value)
        read = _each(value.items(), lambda v: made.structure(v, value_type), dict)
        typed = {_key(key, key_type, made): item for key, item in read.items()}
        if len(typed) < len(read):
            raise reject("rule", "two of its keys are the same", "keep one of them")
        return typed

    return hook


def _typed_dict(t: Any, made: cattrs.Converter) -> Hook:
    hints = {name: storable(strip(hint)) for name, hint in type_hints(t).items()}

    def read(name: str, value: Any) -> Any:
        if name not in hints:
            raise RejectedError(unknown(name, hints))
        return made.structure(value, hints[name])

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping) or COMPONENT_KEY in value:
            raise _wrong(t, value)
        lacking = sorted(t.__required_keys__ - value.keys())
        found, mistakes = {}, [Mistake("missing", "is required", path=(name,)) for name in lacking]
        for name, item in value.items():
            try:
                found[name] = read(name, item)
            except RejectedError as rejected:
                mistakes += below(name, rejected)
        if mistakes:
            raise RejectedError(*mistakes)
        return found

    return hook


def _key(key: str, t: Any, made: cattrs.Converter) -> Any:
    """Read a key, which YAML holds as text, by its type: `3: x` has an int for key in a `dict[int, str]`."""
    if is_anything(t) or t is str:
        if isinstance(key, KeyText):
            raise _wrong_key("text", key, key)
        return key
    try:
        return made.structure(key if is_storable_as_text(t) else plain_scalar(key), t)
    except RejectedError as rejected:
        raise _wrong_key(describe(t), key, repr(key)) from rejected


def _wrong_key(expected: str, key: str, got: str) -> RejectedError:
    return RejectedError(Mistake("wrong_type", path=(key,), expected=f"{expected} as key", got=got))


def is_storable_as_text(t: Any) -> bool:
    """Tell whether a value of this type may be text in YAML: text itself, a choice of texts, or a path."""
    return any(
        m is str or _is_class(m, (PurePath, enum.Enum)) or typing.get_origin(m) is Literal for m in members(t)
    )


def _collection(t: Any, made: cattrs.Converter) -> Hook:
    args = typing.get_args(t)
    origin = typing.get_origin(t) or t
    kind = frozenset if is_set_type(t) else list
    if origin in (list, tuple, set, frozenset):
        kind = origin
    fixed = origin is tuple and t is not tuple and Ellipsis not in args
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
    wanted = Any if bare is not t or is_component_type(t) else t
    if typing.get_args(bare):
        wanted = typing.get_args(bare)[0]
    passed = passed_in(t)
    return lambda value, _: structure_component(value, wanted, made, passed)


def _alias(t: Any, made: cattrs.Converter) -> Hook:
    return lambda value, _: made.structure(value, storable(push_down(t)))


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
    (lambda t: alias_of(t) is not None, _alias),
]
