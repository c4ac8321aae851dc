"""Types of fields and arguments: which of them YAML can hold, and how to name them to a person."""

import enum
import inspect
import os
import types
import typing
from collections.abc import Iterable, Mapping, Set
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, Union

import attrs

from torchtune.config._component import Component
from torchtune.config._signature import MISSING, Passed

if typing.TYPE_CHECKING:
    LocalPath: TypeAlias = str
else:
    LocalPath = str | os.PathLike[str]
"""The type of a field that is the path of a file or a folder; type checkers see `str`, which a config holds.

`pathlib.Path` and `str | os.PathLike[str]` declare paths too, in fields and in arguments of components. In all of them
`~` at the beginning is a home folder, and a slash at the end is dropped.
"""

SCALARS: Final = {bool: "true or false", int: "an int", float: "a float", str: "text", type(None): "null"}
"""The scalar types of YAML, in words."""


def is_anything(t: Any) -> bool:
    """Tell whether a type says nothing: not annotated, `Any`, `object` or a type variable."""
    return t is MISSING or t is Any or t is object or isinstance(t, TypeVar)


def is_union(t: Any) -> bool:
    """Tell whether a type is a union, in either spelling."""
    return typing.get_origin(t) in (Union, types.UnionType)


def holds_components(t: Any) -> bool:
    """Tell whether a type is `Component[T]`, or has one in it, such as a list of them."""
    bare = typing.get_args(t)[0] if typing.get_origin(t) is Annotated else t
    if is_component_type(bare):
        return True
    return typing.get_origin(bare) is not Literal and any(map(holds_components, typing.get_args(bare)))


def is_component_type(t: Any) -> bool:
    """Tell whether a type is `Component[T]`, with or without what the recipe passes."""
    bare = strip(t)
    return bare is Component or typing.get_origin(bare) is Component


def strip(t: Any) -> Any:
    """Return a type without `Annotated`."""
    while typing.get_origin(t) is Annotated:
        t = typing.get_args(t)[0]
    return t


def passed_in(t: Any) -> Passed:
    """Return what the recipe passes to the components of a field of this type."""
    if typing.get_origin(t) is Annotated:
        return next((m for m in typing.get_args(t)[1:] if isinstance(m, Passed)), Passed())
    return Passed()


def alias_of(t: Any) -> Any:
    """Return the type that a `NewType` or a `type X = ...` stands for, or None where it is neither."""
    return getattr(t, "__supertype__", None) or (
        getattr(t, "__value__", None) if type(t).__name__ == "TypeAliasType" else None
    )


def push_down(t: Any, passed: Passed | None = None) -> Any:
    """Move what a recipe passes down to the components of a union or a collection.

    `Annotated[list[Component[D]], Passed(1)]` becomes `list[Annotated[Component[D], Passed(1)]]`.
    """
    if typing.get_origin(t) is Annotated:
        return push_down(strip(t), passed_in(t))
    meant = alias_of(t)
    if meant is not None:
        return push_down(meant, passed)
    if is_component_type(t):
        return Annotated[t, passed] if passed else t
    args = typing.get_args(t)
    if passed is None or not args or typing.get_origin(t) is Literal:
        return t
    inner = tuple(push_down(arg, passed) for arg in args)
    if is_union(t):
        return Union[inner]  # noqa: UP007 -- made from a tuple of members
    return typing.get_origin(t)[inner]


def is_section(t: Any) -> bool:
    """Tell whether a type is a config class or a section of one: an attrs class or a dataclass."""
    return isinstance(t, type) and (attrs.has(t) or hasattr(t, "__dataclass_fields__"))


def sections_of(t: Any) -> list[type]:
    """Return the config classes in a type such as `Validation | None`."""
    return [m for m in members(strip(t)) if is_section(m)]


def is_torch_name(t: Any) -> bool:
    """Tell whether a type is `torch.dtype` or `torch.device`, which are written by name."""
    return isinstance(t, type) and t.__module__ == "torch" and t.__name__ in ("dtype", "device")


def is_mapping_type(t: Any) -> bool:
    """Tell whether a type is a mapping, such as `dict[str, int]`."""
    origin = typing.get_origin(t) or t
    return isinstance(origin, type) and issubclass(origin, Mapping) and not is_section(t)


def is_collection_type(t: Any) -> bool:
    """Tell whether a type is written as a YAML list: a list, tuple, set, sequence or iterable."""
    origin = typing.get_origin(t) or t
    if not isinstance(origin, type) or is_mapping_type(t) or is_section(t) or origin in (str, bytes):
        return False
    return origin is Iterable or (issubclass(origin, Iterable) and _is_abstract_or_builtin(origin))


def _is_abstract_or_builtin(origin: type) -> bool:
    """Leave out classes such as a Dataset, which are iterable but are built, not listed."""
    return origin in (list, tuple, set, frozenset) or origin.__module__ == "collections.abc"


def is_storable(t: Any) -> bool:
    """Tell whether YAML can hold a value of this type other than as a nested component."""
    if is_union(t):
        return any(is_storable(m) for m in typing.get_args(t))
    plain = t in SCALARS or is_anything(t) or is_component_type(t) or typing.get_origin(t) is Literal
    classes = isinstance(t, type) and issubclass(t, (enum.Enum, PurePath))
    return (
        plain or classes or is_torch_name(t) or is_section(t) or is_mapping_type(t) or is_collection_type(t)
    )


def members(t: Any) -> tuple[Any, ...]:
    """Return the members of a union that YAML can hold, or the type itself.

    `lr: float | Tensor` is a float; a union of which YAML can hold nothing but null is left whole, for nested
    components.
    """
    if not is_union(t):
        return (t,)
    kept = tuple(m for m in typing.get_args(t) if is_storable(m))
    return kept if set(kept) - {type(None)} else typing.get_args(t)


def storable(t: Any) -> Any:
    """Reduce a type to what YAML can hold, also inside collections."""
    t = strip(t) if not is_component_type(t) else t
    args = typing.get_args(t)
    if is_union(t):
        return Union[tuple(storable(m) for m in args)]  # noqa: UP007 -- made from a tuple of members
    if args and is_collection_type(t):
        kept = tuple(a if a is Ellipsis else storable(a) for a in args)
        return typing.get_origin(t)[kept]
    return t


def is_path(t: Any) -> bool:
    """Tell whether a type declares a path: `LocalPath`, `pathlib.Path`, or a union with one."""
    kinds = [typing.get_origin(m) or m for m in (typing.get_args(t) if is_union(t) else (t,))]
    return any(isinstance(kind, type) and issubclass(kind, os.PathLike) for kind in kinds)


def takes_none(t: Any) -> bool:
    """Tell whether `null` is a value of this type."""
    return is_anything(t) or t is None or type(None) in members(t)


def takes_text(t: Any) -> bool:
    """Tell whether text is read verbatim for this type: it has `str`, or a path, and nothing else but null."""
    rest = [m for m in members(strip(t)) if m is not type(None)]
    return bool(rest) and all(m is str or (isinstance(m, type) and issubclass(m, PurePath)) for m in rest)


def class_name(t: Any) -> str:
    """Return a class's bare name, or the text of any other type."""
    return getattr(t, "__name__", None) or str(t)


def type_name(t: Any) -> str:
    """Return a type as a person writes it, such as `Example | list[Example]`."""
    if is_union(t):
        return " | ".join(map(type_name, typing.get_args(t)))
    args = ", ".join(map(type_name, typing.get_args(t)))
    return f"{class_name(typing.get_origin(t) or t)}[{args}]" if args else class_name(t)


def generic_arguments(t: Any, base: type) -> tuple[Any, ...]:
    """Return the arguments that a type gives to a generic base class, such as a dataset's items; none if unknown.

    Args:
        t: A class, or a generic alias of one.
        base: The generic class.
    """
    own = typing.get_origin(t) or t
    if own is base:
        return typing.get_args(t)
    filled = dict(zip(getattr(own, "__parameters__", ()), typing.get_args(t), strict=False))
    for parent in getattr(own, "__orig_bases__", ()):
        origin = typing.get_origin(parent) or parent
        if isinstance(origin, type) and issubclass(origin, base):
            open_ones = getattr(parent, "__parameters__", ())
            return generic_arguments(
                parent[tuple(filled.get(p, p) for p in open_ones)] if open_ones else parent, base
            )
    for plain in getattr(own, "__bases__", ()):
        if issubclass(plain, base):
            return generic_arguments(plain, base)
    return ()


def yaml_repr(value: Any) -> str:
    """Show a scalar as YAML has it."""
    if value is None or isinstance(value, bool):
        return {"None": "null"}.get(str(value), str(value).lower())
    return repr(value)


def choices(t: Any) -> list[Any]:
    """Return the values that a type spells out: of a Literal, an enum, or the members of a union that are such."""
    t = strip(t)
    if is_union(t):
        return [choice for member in typing.get_args(t) for choice in choices(member)]
    if typing.get_origin(t) is Literal:
        return [a.value if isinstance(a, enum.Enum) else a for a in typing.get_args(t)]
    return [m.value for m in t] if inspect.isclass(t) and issubclass(t, enum.Enum) else []


def describe(t: Any) -> str:
    """Name a type to a person, as what completes `expected`."""
    t = strip(t)
    if is_union(t):
        words = [describe(m) for m in sorted(members(t), key=lambda m: m is type(None))]
        return " or ".join("a path" if word == SCALARS[str] and is_path(t) else word for word in words)
    if t in SCALARS:
        return SCALARS[t]
    if is_anything(t):
        return "a value"
    if typing.get_origin(t) is Literal:
        return "one of " + ", ".join(map(yaml_repr, choices(t)))
    if is_component_type(t):
        wanted = typing.get_args(t)
        return f"a component that builds {article(class_name(wanted[0]))}" if wanted else "a component"
    return _describe_class(t)


def _describe_class(t: Any) -> str:
    """Name a type that is a class or a generic alias of one."""
    if is_mapping_type(t):
        return "a mapping"
    if is_collection_type(t):
        return _describe_collection(t)
    if is_torch_name(t):
        return "a dtype such as 'bfloat16'" if t.__name__ == "dtype" else "a device such as 'cuda:0'"
    if is_section(t):
        return f"a mapping with fields of {t.__name__}"
    if inspect.isclass(t) and issubclass(t, enum.Enum):
        return "one of " + ", ".join(map(yaml_repr, choices(t)))
    if inspect.isclass(t) and issubclass(t, PurePath):
        return "a path"
    return f"a component that builds {article(class_name(t))}"


def _describe_collection(t: Any) -> str:
    args = [a for a in typing.get_args(t) if a is not Ellipsis]
    fixed = typing.get_origin(t) is tuple and Ellipsis not in typing.get_args(t)
    if fixed:
        return f"a list of {len(args)}: {', '.join(describe(a) for a in args)}"
    return f"a list, each {describe(args[0])}" if args else "a list"


def article(noun: str) -> str:
    """Put `a` or `an` before a noun."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def is_set_type(t: Any) -> bool:
    """Tell whether a collection type is a set, whose order does not matter."""
    origin = typing.get_origin(t) or t
    return isinstance(origin, type) and issubclass(origin, Set)


_METAVARS = {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT", type(None): "null"}
_METAVARS_OF_KINDS = (
    (is_anything, "VALUE"),
    (is_mapping_type, "MAPPING"),
    (is_section, "MAPPING"),
    (is_collection_type, "LIST"),
    (takes_text, "PATH"),
)


def metavar(t: Any) -> str:
    """Return a type's short name for help texts: `INT`, `FLOAT|null`, `fp32|bf16`."""
    t = strip(t)
    if is_union(t):
        words = "|".join(map(metavar, sorted(members(t), key=lambda m: m is type(None))))
        return words.replace("TEXT", "PATH") if is_path(t) else words
    if t in _METAVARS:
        return _METAVARS[t]
    spelt_out = choices(t)
    if spelt_out:
        return "|".join(c if isinstance(c, str) else yaml_repr(c) for c in spelt_out)
    if is_torch_name(t):
        return str(t.__name__).upper()
    return next((word for fits, word in _METAVARS_OF_KINDS if fits(t)), "DOTPATH")
