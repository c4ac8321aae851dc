"""Types of fields and arguments: classification, representation in YAML, and descriptions for messages."""

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
    """The type of a field that is a path to a file or folder; type checkers see `str`, because values are strings.

    `pathlib.Path` and `str | os.PathLike[str]` also declare paths, in fields and component arguments. In all of them, a
    leading `~` is expanded to a home folder and a trailing slash is removed.
    """

SCALARS: Final = {bool: "true or false", int: "an int", float: "a float", str: "text", type(None): "null"}
"""The scalar types of YAML, with their descriptions."""


def is_any_type(t: Any) -> bool:
    """Return whether a type is unconstrained: missing, `Any`, `object` or a type variable."""
    return t is MISSING or t is Any or t is object or isinstance(t, TypeVar)


def is_union(t: Any) -> bool:
    """Return whether a type is a union (`X | Y` or `Union[X, Y]`)."""
    return typing.get_origin(t) in (Union, types.UnionType)


def contains_components(t: Any) -> bool:
    """Return whether a type is or contains `Component[T]`, as in `list[Component[T]]`."""
    inner = typing.get_args(t)[0] if typing.get_origin(t) is Annotated else t
    if is_component_type(inner):
        return True
    return typing.get_origin(inner) is not Literal and any(map(contains_components, typing.get_args(inner)))


def is_component_type(t: Any) -> bool:
    """Return whether a type is `Component[T]`, with or without `Passed`."""
    inner = strip(t)
    return inner is Component or typing.get_origin(inner) is Component


def strip(t: Any) -> Any:
    """Return a type without `Annotated`."""
    while typing.get_origin(t) is Annotated:
        t = typing.get_args(t)[0]
    return t


def passed_in(t: Any) -> Passed:
    """Return the arguments that the recipe passes to the components of a field of this type."""
    if typing.get_origin(t) is Annotated:
        return next((m for m in typing.get_args(t)[1:] if isinstance(m, Passed)), Passed())
    return Passed()


def alias_of(t: Any) -> Any:
    """Return the target of a `NewType` or `type X = ...`, or None for any other type."""
    return getattr(t, "__supertype__", None) or (
        getattr(t, "__value__", None) if type(t).__name__ == "TypeAliasType" else None
    )


def push_down(t: Any, passed_args: Passed | None = None) -> Any:
    """Move the `Passed` annotation of a union or collection to its component types.

    `Annotated[list[Component[D]], Passed(1)]` becomes `list[Annotated[Component[D], Passed(1)]]`.
    """
    if typing.get_origin(t) is Annotated:
        return push_down(strip(t), passed_in(t))
    target = alias_of(t)
    if target is not None:
        return push_down(target, passed_args)
    if is_component_type(t):
        return Annotated[t, passed_args] if passed_args else t
    args = typing.get_args(t)
    if passed_args is None or not args or typing.get_origin(t) is Literal:
        return t
    inner = tuple(push_down(arg, passed_args) for arg in args)
    if is_union(t):
        return Union[inner]  # noqa: UP007 -- built from a tuple of members
    return typing.get_origin(t)[inner]


def is_section(t: Any) -> bool:
    """Return whether a type is a config class or section: an attrs class or a dataclass."""
    return isinstance(t, type) and (attrs.has(t) or hasattr(t, "__dataclass_fields__"))


def sections_of(t: Any) -> list[type]:
    """Return the config classes in a type such as `Validation | None`."""
    return [m for m in members(strip(t)) if is_section(m)]


def is_torch_name(t: Any) -> bool:
    """Return whether a type is `torch.dtype` or `torch.device`, whose values are represented by name."""
    return isinstance(t, type) and t.__module__ == "torch" and t.__name__ in ("dtype", "device")


def is_mapping_type(t: Any) -> bool:
    """Return whether a type is a mapping, such as `dict[str, int]`."""
    origin = typing.get_origin(t) or t
    return isinstance(origin, type) and issubclass(origin, Mapping) and not is_section(t)


def is_collection_type(t: Any) -> bool:
    """Return whether a type is represented as a YAML list: a list, tuple, set, sequence or iterable."""
    origin = typing.get_origin(t) or t
    if not isinstance(origin, type) or is_mapping_type(t) or is_section(t) or origin in (str, bytes):
        return False
    return origin is Iterable or (issubclass(origin, Iterable) and _is_abstract_or_builtin(origin))


def _is_abstract_or_builtin(origin: type) -> bool:
    """Return whether a collection class is builtin or abstract; others, such as a Dataset, are components."""
    return origin in (list, tuple, set, frozenset) or origin.__module__ == "collections.abc"


def is_storable(t: Any) -> bool:
    """Return whether YAML can represent a value of this type without a nested component."""
    if is_union(t):
        return any(is_storable(m) for m in typing.get_args(t))
    is_plain = t in SCALARS or is_any_type(t) or is_component_type(t) or typing.get_origin(t) is Literal
    is_class = isinstance(t, type) and issubclass(t, (enum.Enum, PurePath))
    return (
        is_plain
        or is_class
        or is_torch_name(t)
        or is_section(t)
        or is_mapping_type(t)
        or is_collection_type(t)
    )


def members(t: Any) -> tuple[Any, ...]:
    """Return the members of a union that YAML can represent, or the type itself.

    For `float | Tensor`, this is `float`. If only null is, all members are returned: the others may be components.
    """
    if not is_union(t):
        return (t,)
    storable_members = tuple(m for m in typing.get_args(t) if is_storable(m))
    return storable_members if set(storable_members) - {type(None)} else typing.get_args(t)


def storable(t: Any) -> Any:
    """Remove `Annotated` from a type and the types inside it, except around components."""
    t = strip(t) if not is_component_type(t) else t
    args = typing.get_args(t)
    if is_union(t):
        return Union[tuple(storable(m) for m in args)]  # noqa: UP007 -- built from a tuple of members
    if args and is_collection_type(t):
        items = tuple(a if a is Ellipsis else storable(a) for a in args)
        return typing.get_origin(t)[items]
    return t


def is_path(t: Any) -> bool:
    """Return whether a type declares a path: `LocalPath`, `pathlib.Path`, or a union with one."""
    kinds = [typing.get_origin(m) or m for m in (typing.get_args(t) if is_union(t) else (t,))]
    return any(isinstance(kind, type) and issubclass(kind, os.PathLike) for kind in kinds)


def accepts_null(t: Any) -> bool:
    """Return whether `null` is a value of this type."""
    return is_any_type(t) or t is None or type(None) in members(t)


def reads_text_verbatim(t: Any) -> bool:
    """Return whether a type consists of `str`, paths and null, so that command-line text is read verbatim."""
    kinds = [m for m in members(strip(t)) if m is not type(None)]
    return bool(kinds) and all(m is str or (isinstance(m, type) and issubclass(m, PurePath)) for m in kinds)


def class_name(t: Any) -> str:
    """Return the unqualified name of a class, or the string form of any other type."""
    return getattr(t, "__name__", None) or str(t)


def type_name(t: Any) -> str:
    """Return a type as source code, such as `Example | list[Example]`."""
    if is_union(t):
        return " | ".join(map(type_name, typing.get_args(t)))
    args = ", ".join(map(type_name, typing.get_args(t)))
    return f"{class_name(typing.get_origin(t) or t)}[{args}]" if args else class_name(t)


def generic_arguments(t: Any, base: type) -> tuple[Any, ...]:
    """Return the type arguments of a generic base class, such as the item type of a dataset; empty if unknown.

    Args:
        t: A class or a generic alias.
        base: The generic class.
    """
    cls = typing.get_origin(t) or t
    if cls is base:
        return typing.get_args(t)
    type_vars = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(t), strict=False))
    for generic in getattr(cls, "__orig_bases__", ()):
        origin = typing.get_origin(generic) or generic
        if isinstance(origin, type) and issubclass(origin, base):
            parameters = getattr(generic, "__parameters__", ())
            return generic_arguments(
                generic[tuple(type_vars.get(p, p) for p in parameters)] if parameters else generic, base
            )
    for parent in getattr(cls, "__bases__", ()):
        if issubclass(parent, base):
            return generic_arguments(parent, base)
    return ()


def yaml_repr(value: Any) -> str:
    """Format a scalar as in YAML."""
    if value is None or isinstance(value, bool):
        return {"None": "null"}.get(str(value), str(value).lower())
    return repr(value)


def choices(t: Any) -> list[Any]:
    """Return the allowed values of a Literal, an enum, or a union that contains them; empty for other types."""
    t = strip(t)
    if is_union(t):
        return [choice for member in typing.get_args(t) for choice in choices(member)]
    if typing.get_origin(t) is Literal:
        return [a.value if isinstance(a, enum.Enum) else a for a in typing.get_args(t)]
    return [m.value for m in t] if inspect.isclass(t) and issubclass(t, enum.Enum) else []


def describe(t: Any) -> str:
    """Return a description of a type, phrased to follow the word "expected" in a message."""
    t = strip(t)
    if is_union(t):
        parts = [describe(m) for m in sorted(members(t), key=lambda m: m is type(None))]
        return " or ".join("a path" if part == SCALARS[str] and is_path(t) else part for part in parts)
    if t in SCALARS:
        return SCALARS[t]
    if is_any_type(t):
        return "a value"
    if typing.get_origin(t) is Literal:
        return "one of " + ", ".join(map(yaml_repr, choices(t)))
    if is_component_type(t):
        args = typing.get_args(t)
        return f"a component that builds {article(class_name(args[0]))}" if args else "a component"
    return _describe_class(t)


def _describe_class(t: Any) -> str:
    """Return the description of a class or generic alias."""
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
    items = [describe(a) for a in typing.get_args(t) if a is not Ellipsis]
    fixed = typing.get_origin(t) is tuple and Ellipsis not in typing.get_args(t)
    count = f"{len(items)} " if fixed else ""
    if {*items} == {SCALARS[str]}:
        return f"a list of {count}text values"
    if len({*items}) == 1 and items[0].startswith("a") and items[0].count(" ") == 1:
        return f"a list of {count}{items[0].split()[1]}s"
    if fixed:
        return f"a list of {count}items: {', '.join(items)}"
    return f"a list in which each item is {items[0]}" if items else "a list"


def article(noun: str) -> str:
    """Prefix a noun with `a` or `an`."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def is_set_type(t: Any) -> bool:
    """Return whether a collection type is a set."""
    origin = typing.get_origin(t) or t
    return isinstance(origin, type) and issubclass(origin, Set)


_METAVARS = {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT", type(None): "null"}
_METAVARS_OF_KINDS = (
    (is_any_type, "VALUE"),
    (is_mapping_type, "MAPPING"),
    (is_section, "MAPPING"),
    (is_collection_type, "LIST"),
    (reads_text_verbatim, "PATH"),
)


def metavar(t: Any) -> str:
    """Return a type's placeholder in help texts: `INT`, `FLOAT|null`, `fp32|bf16`."""
    t = strip(t)
    if is_union(t):
        names = "|".join(map(metavar, sorted(members(t), key=lambda m: m is type(None))))
        return names.replace("TEXT", "PATH") if is_path(t) else names
    if t in _METAVARS:
        return _METAVARS[t]
    allowed_values = choices(t)
    if allowed_values:
        return "|".join(c if isinstance(c, str) else yaml_repr(c) for c in allowed_values)
    if is_torch_name(t):
        return str(t.__name__).upper()
    return next((name for matches, name in _METAVARS_OF_KINDS if matches(t)), "DOTPATH")
