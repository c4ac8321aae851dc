"""Convert mappings, lists and scalars to typed config objects; `_unstructure` is the inverse.

cattrs dispatches on types. Every hook is strict (scalars are never coerced, except int to float) and reports all
mistakes in its value at once, as a `RejectedError`.
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
from torchtune.config._mistakes import Mistake, RejectedError, did_you_mean, mistakes_at, reject, unknown_name
from torchtune.config._schema import section_of
from torchtune.config._signature import type_hints
from torchtune.config._tree import BROKEN, is_component_tree
from torchtune.config._types import (
    SCALARS,
    alias_of,
    choices,
    describe,
    is_any_type,
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
def converter_for(*, references: bool) -> cattrs.Converter:
    """Return the converter from trees to config objects.

    Args:
        references: Accept `${...}` for a value of any type, as in an unresolved config.
    """
    conv = cattrs.Converter()
    for matches, factory in _FACTORIES:
        conv.register_structure_hook_factory(matches, functools.partial(_guarded, factory, conv, references))
    for scalar in SCALARS:  # cattrs checks these before the factories
        conv.register_structure_hook(scalar, _guarded(_scalar, conv, references, scalar))
    conv.register_structure_hook(Path, _guarded(_path, conv, references, Path))
    return conv


def structure(tree: Any, expected_type: Any, *, references: bool = False) -> Any:
    """Convert a tree to an object of a type.

    Raises:
        RejectedError: The tree is not valid; contains every mistake.
    """
    return converter_for(references=references).structure(tree, expected_type)


def check_untyped(tree: Any) -> None:
    """Check the components and their arguments in a tree that has no config class.

    Raises:
        RejectedError: The tree is not valid; contains every mistake.
    """
    if is_component_tree(tree):
        structure_component(tree, Any, converter_for(references=False), incomplete=True)
    elif isinstance(tree, Mapping):
        _read_each(tree.items(), check_untyped, dict)
    elif isinstance(tree, list):
        _read_each(enumerate(tree), check_untyped, list)


# Structure hooks. Each factory is called once per type and returns its hook.


def _guarded(factory: Callable[..., Hook], conv: cattrs.Converter, references: bool, t: Any) -> Hook:
    """Wrap a hook to accept references if allowed, and to report a TypeError or ValueError as a mistake."""
    hook = factory(t, conv)

    def guarded(value: Any, expected_type: Any) -> Any:
        if value is BROKEN:
            raise reject("consequence")
        if references and is_reference(value):
            return value
        try:
            return hook(value, expected_type)
        except (TypeError, ValueError) as error:
            raise reject("rule", str(error)) from error

    return guarded


def _wrong_type(t: Any, value: Any) -> RejectedError:
    hint = did_you_mean(value, _suggestions(t)) if isinstance(value, str) else ""
    return RejectedError(Mistake("wrong_type", "", hint, expected=describe(t), got=display(value)))


def _suggestions(t: Any) -> list[str]:
    """Return the allowed strings of a type, for suggestions."""
    dtypes = [kind for m in (typing.get_args(t) if is_union(t) else (t,)) if is_torch_name(m) for kind in [m]]
    torch = sys.modules.get("torch")
    names = [name for name, kind in vars(torch).items() if isinstance(kind, tuple(dtypes))] if dtypes else []
    return [*(c for c in choices(t) if isinstance(c, str)), *names]


def display(value: Any) -> str:
    """Format a value for a message; long values are shortened, and a mapping is described by its kind."""
    if isinstance(value, Mapping):
        return "a component" if COMPONENT_KEY in value else "a mapping"
    text = repr(value)
    if value is None or isinstance(value, bool):
        text = {"None": "null"}.get(text, text.lower())
    return f"{text[:57]}..." if len(text) > 60 else text


def _scalar(t: Any, conv: cattrs.Converter) -> Hook:
    def hook(value: Any, expected_type: Any) -> Any:
        if _is_class(expected_type, enum.Enum):  # cattrs also selects this hook for IntEnum and StrEnum
            return _enum(expected_type, conv)(value, expected_type)
        if type(value) is t or (t is str and isinstance(value, Text)):
            return value
        if t is float and type(value) is int and abs(value) <= sys.float_info.max:
            return float(value)
        raise _wrong_type(t, value)

    return hook


def _anything(_t: Any, conv: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, Mapping):
            if COMPONENT_KEY in value:
                return structure_component(value, Any, conv)
            return _read_each(value.items(), lambda v: hook(v, _), dict)
        if isinstance(value, list):
            return _read_each(enumerate(value), lambda v: hook(v, _), list)
        return _dtype_named(value) or value

    return hook


def _dtype_named(value: Any) -> Any:
    """Return the dtype for a string such as `torch.bfloat16`, for unannotated arguments (torch.nn.Linear), or None."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, str) or not value.startswith("torch."):
        return None
    result = getattr(torch, value.removeprefix("torch."), None)
    return result if isinstance(result, torch.dtype) else None


def _read_each(items: typing.Iterable[tuple[Any, Any]], read: Callable[[Any], Any], kind: type) -> Any:
    """Convert every value of a collection, and collect all mistakes."""
    result, mistakes = {}, []
    for key, value in items:
        try:
            result[key] = read(value)
        except RejectedError as rejected:
            mistakes += mistakes_at(key, rejected)
    if mistakes:
        raise RejectedError(*mistakes)
    return result if kind is dict else kind(result.values())


def _literal(t: Any, _: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        for choice in typing.get_args(t):
            plain = choice.value if isinstance(choice, enum.Enum) else choice
            if type(value) is type(plain) and value == plain:
                return choice
        raise _wrong_type(t, value)

    return hook


def _enum(t: Any, conv: cattrs.Converter) -> Hook:
    return _literal(Literal[tuple(t)], conv)


def _path(t: Any, _: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, str) and value:  # an empty path would be the working directory
            return t(value)
        raise _wrong_type(t, value)

    return hook


def _torch_name(t: Any, _: cattrs.Converter) -> Hook:
    def hook(value: Any, _: Any) -> Any:
        torch = sys.modules["torch"]
        if not isinstance(value, str):
            raise _wrong_type(t, value)
        if t.__name__ == "device":
            try:
                return torch.device(value)
            except RuntimeError:  # its message lists every device type
                raise _wrong_type(t, value) from None
        result = getattr(torch, value.removeprefix("torch."), None)
        if not isinstance(result, t):
            raise _wrong_type(t, value)
        return result

    return hook


def _union(t: Any, conv: cattrs.Converter) -> Hook:
    # Exact scalar types are tried first, so that 3 stays an int in `int | float`; str is tried last.
    options = sorted(typing.get_args(t), key=lambda m: (m is str, m is float))

    def hook(value: Any, _: Any) -> Any:
        if value is None and type(None) in options:
            return None
        rejections: list[RejectedError] = []
        for option in options:
            if not _may_accept(option, value):
                continue
            try:
                return conv.structure(value, option)
            except RejectedError as rejected:
                rejections.append(rejected)
        if len(rejections) == 1 and not _is_plain(value):  # only one member accepts this kind of value
            raise rejections[0]
        # A mistake inside the value indicates the intended member.
        nested = [r for r in rejections if any(m.path for m in r.mistakes)]
        if len(nested) == 1 and len(sections_of(t)) < 2:
            raise nested[0]
        section = section_of(t, value) if nested and isinstance(value, Mapping) else None
        if section:
            conv.structure(value, section)  # raise the mistakes of the most similar section
        raise _wrong_type(t, value)

    return hook


def _is_plain(value: Any) -> bool:
    return not isinstance(value, (Mapping, list))


def _may_accept(t: Any, value: Any) -> bool:
    """Return whether a value has the kind (component, mapping, list or scalar) that a type requires."""
    if is_any_type(t) or is_union(t):
        return True
    if is_component_tree(value):
        return is_component_type(t) or not is_storable(t)
    if isinstance(value, Mapping):
        return is_section(t) or is_mapping_type(t) or is_component_type(t)
    if isinstance(value, list):
        return is_collection_type(t)
    return is_storable(t) and not (is_section(t) or is_mapping_type(t) or is_collection_type(t))


def _mapping(t: Any, conv: cattrs.Converter) -> Hook:
    if typing.is_typeddict(t):
        return _typed_dict(t, conv)
    key_type, value_type = (storable(a) for a in typing.get_args(t) or (Any, Any))

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping) or COMPONENT_KEY in value:
            raise _wrong_type(t, value)
        read = _read_each(value.items(), lambda v: conv.structure(v, value_type), dict)
        typed = {_key(key, key_type, conv): item for key, item in read.items()}
        if len(typed) < len(read):
            raise reject("rule", "two keys are equal", "keep one of them")
        return typed

    return hook


def _typed_dict(t: Any, conv: cattrs.Converter) -> Hook:
    hints = {name: storable(strip(hint)) for name, hint in type_hints(t).items()}

    def read(name: str, value: Any) -> Any:
        if name not in hints:
            raise RejectedError(unknown_name(name, hints))
        return conv.structure(value, hints[name])

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping) or COMPONENT_KEY in value:
            raise _wrong_type(t, value)
        missing = sorted(t.__required_keys__ - value.keys())
        result, mistakes = {}, [Mistake("missing", "required", path=(name,)) for name in missing]
        for name, item in value.items():
            try:
                result[name] = read(name, item)
            except RejectedError as rejected:
                mistakes += mistakes_at(name, rejected)
        if mistakes:
            raise RejectedError(*mistakes)
        return result

    return hook


def _key(key: str, t: Any, conv: cattrs.Converter) -> Any:
    """Convert a key, which YAML reads as a string, to its type: `3: x` has an int key in a `dict[int, str]`."""
    if is_any_type(t) or t is str:
        if isinstance(key, KeyText):
            raise _wrong_key_type("text", key, key)
        return key
    try:
        return conv.structure(key if is_storable_as_text(t) else plain_scalar(key), t)
    except RejectedError as rejected:
        raise _wrong_key_type(describe(t), key, repr(key)) from rejected


def _wrong_key_type(expected: str, key: str, got: str) -> RejectedError:
    return RejectedError(Mistake("wrong_type", path=(key,), expected=f"a key that is {expected}", got=got))


def is_storable_as_text(t: Any) -> bool:
    """Return whether a value of this type may be a string in YAML: `str`, a `Literal`, an enum or a path."""
    return any(
        m is str or _is_class(m, (PurePath, enum.Enum)) or typing.get_origin(m) is Literal for m in members(t)
    )


def _collection(t: Any, conv: cattrs.Converter) -> Hook:
    args = typing.get_args(t)
    origin = typing.get_origin(t) or t
    kind = frozenset if is_set_type(t) else list
    if origin in (list, tuple, set, frozenset):
        kind = origin
    is_fixed = origin is tuple and t is not tuple and Ellipsis not in args
    item = storable(args[0]) if args else Any

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, list) or (is_fixed and len(value) != len(args)):
            raise _wrong_type(t, value)
        if is_fixed:
            types = iter(args)
            return _read_each(enumerate(value), lambda v: conv.structure(v, storable(next(types))), tuple)
        return _read_each(enumerate(value), lambda v: conv.structure(v, item), kind)

    return hook


def _section(t: Any, conv: cattrs.Converter) -> Hook:
    return lambda value, _: structure_section(value, t, conv)


def _component(t: Any, conv: cattrs.Converter) -> Hook:
    component_type = strip(t)
    expected_type = Any if component_type is not t or is_component_type(t) else t
    if typing.get_args(component_type):
        expected_type = typing.get_args(component_type)[0]
    passed_args = passed_in(t)
    return lambda value, _: structure_component(value, expected_type, conv, passed_args)


def _alias(t: Any, conv: cattrs.Converter) -> Hook:
    return lambda value, _: conv.structure(value, storable(push_down(t)))


def _nested_component(t: Any, conv: cattrs.Converter) -> Hook:
    """Return the hook for any other class; its instances are built by nested components."""
    return lambda value, _: structure_component(value, t, conv)


def _is_class(t: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(t, type) and issubclass(t, kind)


# cattrs tries the most recently registered factory first.
_FACTORIES: list[tuple[Callable[[Any], bool], Callable[..., Hook]]] = [
    (lambda _: True, _nested_component),
    (is_section, _section),
    (is_collection_type, _collection),
    (is_mapping_type, _mapping),
    (is_union, _union),
    (is_torch_name, _torch_name),
    (lambda t: _is_class(t, PurePath), _path),
    (lambda t: _is_class(t, enum.Enum), _enum),
    (lambda t: typing.get_origin(t) is Literal, _literal),
    (is_any_type, _anything),
    (is_component_type, _component),
    (lambda t: alias_of(t) is not None, _alias),
]
