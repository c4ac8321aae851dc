"""Slots: the type, default and documentation of each field path, given the config's current components.

Overrides, command-line flags, help, freezing and completion traverse these slots.
"""

import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs

from torchtune._home import expand_path
from torchtune.config._classes import REQUIRED, default_values, fields
from torchtune.config._component import COMPONENT_KEY, is_component
from torchtune.config._components import argument_type
from torchtune.config._docstrings import documentation
from torchtune.config._dotpath import locate
from torchtune.config._mistakes import Mistake, Path, RejectedError, dotted, nearest
from torchtune.config._signature import MISSING, Passed, accepts_kwargs, parameters, type_hints
from torchtune.config._tree import is_component_tree
from torchtune.config._types import (
    is_any_type,
    is_collection_type,
    is_component_type,
    is_mapping_type,
    is_path,
    is_section,
    members,
    passed_in,
    push_down,
    sections_of,
    storable,
    strip,
)

UNCHECKED = TypeVar("UNCHECKED")
"""The type of every argument of an unknown component, so that only the component itself is reported."""


@attrs.frozen
class Slot:
    """A field path of a config, with the accepted type."""

    type: Any
    """The accepted type, reduced to a type that YAML can represent."""
    default: Any = REQUIRED
    """The default, or REQUIRED."""
    owner: str = ""
    """The class or component that declares the slot."""
    name: str = ""
    documented_by: Any = None
    """The config class or component whose docstrings document the slot."""

    @property
    def doc(self) -> str:
        """The documentation, read lazily because parsing docstrings is slow."""
        return "" if self.documented_by is None else documentation(self.documented_by).get(self.name, "")


def slots(t: Any, tree: Any) -> dict[str | int, Slot]:
    """Return the slots directly below a value.

    Args:
        t: The declared type of the value; `Any` if no type is declared.
        tree: The current value; None if it is not set.
    """
    if is_component_tree(tree):
        return dict(_component_slots(tree, passed_arguments(t)))
    if typing.is_typeddict(mapping_of(t)):
        return {n: Slot(storable(h), owner="mapping") for n, h in type_hints(mapping_of(t)).items()}
    if section := section_of(t, tree):
        return dict[str | int, Slot](section_slots(section).items())
    if isinstance(tree, list):
        item = next((typing.get_args(m)[0] for m in members(strip(t)) if _has_items(m)), Any)
        return {i: Slot(push_down(item), owner="list") for i in range(len(tree))}
    if isinstance(tree, Mapping):
        value = next((typing.get_args(m)[1] for m in members(strip(t)) if _has_values(m)), Any)
        return {key: Slot(storable(value), owner="mapping") for key in tree}
    return {}


def type_of_unlisted_name(t: Any, tree: Any, name: str) -> Any:
    """Return the type of a name that may be set although `slots` does not list it; None if it may not be set.

    Such a name is an argument that the recipe passes (reported later), an argument accepted by `**kwargs`, an argument
    of an invalid component, or a new key of a mapping.
    """
    if t is UNCHECKED:
        return UNCHECKED
    if is_component_tree(tree):
        try:
            fn = locate(tree[COMPONENT_KEY]) if isinstance(tree[COMPONENT_KEY], str) else None
        except RejectedError:
            fn = None
        if fn is None:
            return UNCHECKED
        if accepts_kwargs(fn):
            return Any
        known_params = parameters(fn)
        return argument_type(known_params[name]) if name in known_params else None
    if (section := section_of(t, tree, name)) and name in fields(section):
        return fields(section)[name].type  # a field of another member of a union of sections
    mapping = mapping_of(t)
    if mapping is None or typing.is_typeddict(mapping) or not (tree is None or isinstance(tree, Mapping)):
        return None
    return storable((*typing.get_args(mapping), Any, Any)[1]) if typing.get_args(mapping) else Any


def is_replaced_as_a_whole(t: Any) -> bool:
    """Return whether a later config layer replaces a mapping of this type, rather than merging it.

    Sections and mappings whose values are components or sections are merged.
    """
    mapping = mapping_of(t)
    if mapping is None or sections_of(t):
        return False
    values = typing.get_args(mapping)[1:]
    return not any(
        sections_of(v) or (component_type_of(v) and not is_any_type(component_type_of(v))) for v in values
    )


def mapping_of(t: Any) -> Any:
    """Return the mapping type in a type such as `dict[str, int] | None`, or None."""
    return next((m for m in members(strip(t)) if is_mapping_type(m)), None)


def unstructured_default(slot: Slot) -> tuple[bool, Any]:
    """Return whether a slot has a default, and the default as a tree (or its repr if YAML cannot represent it)."""
    from torchtune.config._unstructure import unstructure

    if slot.default is REQUIRED:
        return False, None
    try:
        return True, unstructure(slot.default)
    except RejectedError:
        return True, repr(slot.default)


def expand_paths(t: Any, tree: Any, path: Path = ()) -> list[Mistake]:
    """Expand paths in a tree of type `t`, in place: values of a path type, and the `output_dir` of any recipe.

    Returns:
        A mistake for each value that is not a valid path.
    """
    types, mistakes = slots(t, tree), []
    for key, value in enumerate(tree) if isinstance(tree, list) else [*tree.items()]:
        declared, key_path = types[key].type if key in types else Any, (*path, key)
        if isinstance(value, dict | list):
            mistakes += expand_paths(declared, value, key_path)
        elif isinstance(value, str) and (is_path(declared) or key_path == ("output_dir",)):
            try:
                tree[key] = expand_path(value)
            except ValueError as error:
                mistakes.append(Mistake("rule", str(error), path=key_path))
    return mistakes


def _has_items(t: Any) -> bool:
    return is_collection_type(t) and bool(typing.get_args(t))


def _has_values(t: Any) -> bool:
    return is_mapping_type(t) and len(typing.get_args(t)) == 2


def section_of(t: Any, tree: Any = None, key: str | int | None = None) -> type | None:
    """Return the config class in a type such as `Validation | None`.

    Of several config classes, return the one with the most fields that match or resemble the names in `tree` and `key`.
    """
    sections = sections_of(t)
    names = [str(n) for n in (*(tree if isinstance(tree, Mapping) else ()), *([] if key is None else [key]))]
    if len(sections) < 2:
        return sections[0] if sections else None
    return max(sections, key=lambda s: sum((n in fields(s)) + bool(nearest(n, fields(s))) for n in names))


def component_type_of(t: Any) -> Any:
    """Return the member of a type that accepts a component, or None."""
    for member in members(t) if not is_component_type(t) else (t,):
        if is_component_type(member) or is_any_type(member):
            return member
        if not is_section(member) and isinstance(member, type) and storable_only_as_component(member):
            return member
    return None


def storable_only_as_component(t: Any) -> bool:
    """Return whether only a nested component can provide a value of this class."""
    from torchtune.config._types import is_storable

    return not is_storable(t)


def passed_arguments(t: Any) -> Passed:
    """Return the arguments that the recipe passes to a component in a slot of this type."""
    component = component_type_of(t)
    return passed_in(component) if component is not None else Passed()


def _component_slots(tree: Mapping[str, Any], passed_args: Passed) -> Iterator[tuple[str, Slot]]:
    if not isinstance(tree[COMPONENT_KEY], str):
        return  # reported elsewhere
    try:
        fn = locate(tree[COMPONENT_KEY])
    except RejectedError:
        return
    known_params = parameters(fn)
    for name, p in known_params.items():
        if name not in passed_args.filled_parameters(known_params):
            default = REQUIRED if p.default is MISSING else p.default
            yield name, Slot(argument_type(p), default, tree[COMPONENT_KEY], name, fn)


@functools.cache
def section_slots(cls: type) -> dict[str, Slot]:
    """Return the slots of a config class."""
    defaults = default_values(cls)
    return {
        name: Slot(f.type, defaults.get(name, f.default), cls.__name__, name, cls)
        for name, f in fields(cls).items()
    }


def declared_components(config: Any, path: Path = ()) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, declared class and value of every component in the fields of a config object and its sections.

    Args:
        config: A config object; other objects contain no components.
        path: The field path of the object.
    """
    if not is_section(type(config)):
        return
    config_class: type = type(config)
    for name, field in fields(config_class).items():
        value, member = getattr(config, name), component_type_of(field.type)
        declared = typing.get_args(strip(member)) if is_component_type(member) else ()
        if is_component(value) and declared:
            yield dotted((*path, name)), typing.get_origin(declared[0]) or declared[0], value
        yield from declared_components(value, (*path, name))
