"""Typed configs: attrs classes with lazy components, checked before anything is built.

Names are imported when they are first used, so that `tune ls` does not pay for the engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.config._classes import field_names, required_names
    from torchtune.config._component import Component, is_component, lazy, nested, ref
    from torchtune.config._diff import ABSENT, Difference, differences
    from torchtune.config._dotpath import is_component_path
    from torchtune.config._flags import print_help
    from torchtune.config._frozen import (
        Frozen,
        fixed_tree,
        freeze,
        frozen_tree,
        load,
        render,
        resolve,
        resolved_tree,
    )
    from torchtune.config._hints import hint_for
    from torchtune.config._instantiate import instantiate
    from torchtune.config._json_schema import json_schema
    from torchtune.config._layers import Layers, Origin
    from torchtune.config._mistakes import ConfigError, InstantiationError, Mistake, dotted, nearest
    from torchtune.config._node import Node
    from torchtune.config._outputs import LockedError, lock, read_record, update_record, versions, way_on
    from torchtune.config._overrides import override
    from torchtune.config._parse import Recipe, parse
    from torchtune.config._registry import (
        Source,
        config_names,
        config_source,
        config_sources,
        folder_of,
        recipe_names,
        recipe_source,
        unknown_name,
    )
    from torchtune.config._schema import Slot, section_of, slots, unstructured_default
    from torchtune.config._signature import MayChange, Passed, parameters_of
    from torchtune.config._sources import config_layers, load_module
    from torchtune.config._tree import leaves
    from torchtune.config._trust import Trust, allow, current_trust, only_trusting, trust_folder_of
    from torchtune.config._types import describe
    from torchtune.config._validators import (
        Rule,
        above,
        arguments,
        at_least,
        between,
        each,
        not_empty,
        one_of,
        share,
    )
    from torchtune.config._yaml import Document, inline_yaml, parse_yaml, read_yaml, render_yaml

_HOMES = {
    "_classes": ("field_names", "required_names"),
    "_component": ("Component", "is_component", "lazy", "nested", "ref"),
    "_diff": ("ABSENT", "Difference", "differences"),
    "_dotpath": ("is_component_path",),
    "_flags": ("print_help",),
    "_frozen": (
        "Frozen",
        "fixed_tree",
        "freeze",
        "frozen_tree",
        "load",
        "render",
        "resolve",
        "resolved_tree",
    ),
    "_hints": ("hint_for",),
    "_instantiate": ("instantiate",),
    "_json_schema": ("json_schema",),
    "_layers": ("Layers", "Origin"),
    "_mistakes": ("ConfigError", "InstantiationError", "Mistake", "dotted", "nearest"),
    "_node": ("Node",),
    "_outputs": ("LockedError", "lock", "read_record", "update_record", "versions", "way_on"),
    "_overrides": ("override",),
    "_parse": ("Recipe", "parse"),
    "_registry": (
        "Source",
        "config_names",
        "config_source",
        "config_sources",
        "folder_of",
        "freeze",
        "recipe_names",
        "recipe_source",
        "unknown_name",
    ),
    "_schema": ("Slot", "section_of", "slots", "unstructured_default"),
    "_signature": ("MayChange", "Passed", "parameters_of"),
    "_sources": ("config_layers", "load_module"),
    "_types": ("describe",),
    "_tree": ("leaves",),
    "_trust": ("Trust", "allow", "current_trust", "only_trusting", "trust_folder_of"),
    "_validators": (
        "Rule",
        "Slot",
        "above",
        "arguments",
        "at_least",
        "between",
        "each",
        "not_empty",
        "one_of",
        "share",
        "slots",
    ),
    "_yaml": ("Document", "inline_yaml", "parse_yaml", "read_yaml", "render_yaml"),
}

__all__ = [
    "ABSENT",
    "Component",
    "ConfigError",
    "Difference",
    "Document",
    "Frozen",
    "InstantiationError",
    "Layers",
    "LockedError",
    "MayChange",
    "Mistake",
    "Node",
    "Origin",
    "Passed",
    "Recipe",
    "Rule",
    "Slot",
    "Source",
    "Trust",
    "above",
    "allow",
    "arguments",
    "at_least",
    "between",
    "config_layers",
    "config_names",
    "config_source",
    "config_sources",
    "current_trust",
    "describe",
    "differences",
    "dotted",
    "each",
    "field_names",
    "fixed_tree",
    "folder_of",
    "freeze",
    "frozen_tree",
    "hint_for",
    "inline_yaml",
    "instantiate",
    "is_component",
    "is_component_path",
    "json_schema",
    "lazy",
    "leaves",
    "load",
    "load_module",
    "lock",
    "nearest",
    "nested",
    "not_empty",
    "one_of",
    "only_trusting",
    "override",
    "parameters_of",
    "parse",
    "parse_yaml",
    "print_help",
    "read_record",
    "read_yaml",
    "recipe_names",
    "recipe_source",
    "ref",
    "render",
    "render_yaml",
    "required_names",
    "resolve",
    "resolved_tree",
    "section_of",
    "share",
    "slots",
    "trust_folder_of",
    "unknown_name",
    "unstructured_default",
    "update_record",
    "versions",
    "way_on",
]


def __getattr__(name: str) -> Any:
    """Import a name from its private module when it is first used (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(f"torchtune.config.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'torchtune.config' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
