"""A JSON Schema of a recipe's YAML, so that an editor completes a config and finds its mistakes while it is written.

Draft 7 (https://json-schema.org/draft-07), which editors' YAML servers read. It accepts what the engine accepts; what
only the engine can know (contradictions, references that lead nowhere, packages that were allowed) it lets pass.
"""

import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field

from torchtune.config import Passed
from torchtune.config.model import (
    BASE_KEY,
    COMPONENT_KEY,
    HELPER_PREFIX,
    MISSING,
    OWN_PACKAGES,
    REQUIRED,
    SCALARS,
    Arguments,
    Field,
    RejectedError,
    Slot,
    argument_type,
    choices,
    documentation,
    fields,
    is_anything,
    is_collection_type,
    is_component_type,
    is_path,
    is_section,
    is_torch_name,
    is_union,
    mapping_of,
    parameters,
    passed_in,
    rules,
    section_slots,
    storable,
    strip,
    swallows_keywords,
    type_hints,
    unstructure,
)
from torchtune.runs import components_for

Schema = dict[str, Any]

_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_FOREIGN: Final = {"torch", *sys.stdlib_module_names}
_REFERENCE: Final = {"$ref": "#/definitions/reference"}


def json_schema(config_class: type, recipe: str, doc: str = "") -> Schema:
    """Return the JSON Schema of a config class's YAML.

    Args:
        config_class: The recipe's.
        recipe: Its name, for the title.
        doc: What it does.
    """
    writer = _Writer()
    known = fields(config_class)
    required = [name for name, f in known.items() if f.default is REQUIRED]
    base = {
        "type": "string",
        "description": "A registered config or a YAML file; this one holds what differs.",
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"A config of {recipe}",
        "description": doc,
        "type": "object",
        "properties": {BASE_KEY: base, **writer.properties(config_class)},
        "patternProperties": {
            f"^{HELPER_PREFIX}": {"description": "Holds what aliases name; it is no field."}
        },
        "additionalProperties": False,
        "if": {"not": {"required": [BASE_KEY]}},
        "then": {"required": required},
        "definitions": writer.definitions,
    }


def _start() -> dict[str, Schema]:
    own = "|".join(
        (*OWN_PACKAGES, "torch", *sorted(n for n in sys.stdlib_module_names if not n.startswith("_")))
    )
    return {
        "reference": {
            "type": "string",
            "pattern": r"\$\{[^{}]+\}",
            "description": "The value of another field: ${a.b}",
        },
        "foreign": {
            "type": "string",
            "pattern": rf"^(?!({own})\.)[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+$",
            "description": "A class or function of your own, or of a package that --allow names.",
        },
    }


@define
class _Writer:
    """Writes schemas of types; components are written once, as definitions."""

    definitions: dict[str, Schema] = field(factory=_start)

    def properties(self, cls: type) -> dict[str, Schema]:
        """Return the schemas of a config class's fields."""
        slots = section_slots(cls)
        return {name: self._field(f, slots[name]) for name, f in fields(cls).items()}

    def _field(self, f: Field, slot: Slot) -> Schema:
        found = {**_alone(self.of(f.type)), **_described(slot.doc, slot.default)}
        for rule in rules(f.validator):
            found.update(rule.schema)
        if isinstance(f.validator, Arguments):
            found["properties"] = {name: dict(rule.schema) for name, rule in f.validator.rules.items()}
        return found

    def of(self, t: Any) -> Schema:
        """Return the schema of a type."""
        bare = strip(t)
        if is_anything(bare):
            return {}
        if is_union(bare):
            options = _flat([self.of(member) for member in typing.get_args(bare)])
            return options[0] if len(options) == 1 else {"anyOf": options}
        if is_component_type(bare):
            return self._component(t, (typing.get_args(bare) or (Any,))[0])
        if is_section(bare):
            return _or_reference(self._section(bare))
        if (plain := self._plain(bare)) is not None:
            return plain
        if getattr(bare, "__module__", "").partition(".")[0] in _FOREIGN:
            return _or_reference(
                {"type": "object", "required": [COMPONENT_KEY]}
            )  # seldom written, and long to list
        return self._component(t, bare)

    def _plain(self, t: Any) -> Schema | None:
        """Return the schema of a scalar, a choice or a collection; None for anything else."""
        if t in SCALARS:
            return {"type": _TYPES[t]} if t in (str, type(None)) else _or_reference({"type": _TYPES[t]})
        if found := choices(t):
            return _or_reference({"enum": found})
        if is_torch_name(t):
            return {"type": "string"} if t.__name__ == "device" else _or_reference({"enum": _dtypes(t)})
        if is_path(t):
            return {"type": "string"}
        if mapping_of(t) is not None:
            return _or_reference(self._mapping(t))
        return _or_reference(self._collection(t)) if is_collection_type(t) else None

    def _mapping(self, t: Any) -> Schema:
        if typing.is_typeddict(t):
            known = {name: self.of(storable(strip(hint))) for name, hint in type_hints(t).items()}
            required = sorted(t.__required_keys__)
            return {
                "type": "object",
                "properties": known,
                "required": required,
                "additionalProperties": False,
            }
        _, value = typing.get_args(t) or (Any, Any)
        return {"type": "object", "additionalProperties": self.of(value)}

    def _collection(self, t: Any) -> Schema:
        args = typing.get_args(t)
        if typing.get_origin(t) is tuple and Ellipsis not in args:
            items = [self.of(a) for a in args]
            return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
        return {"type": "array", "items": self.of(args[0]) if args else {}}

    def _section(self, cls: type) -> Schema:
        """Return a section's schema; a required field may come from a layer below, so none is demanded here."""
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # a section may hold itself
            self.definitions[name] = {
                "type": "object",
                "description": (inspect.getdoc(cls) or "").partition("\n")[0],
                "properties": self.properties(cls),
                "additionalProperties": False,
            }
        return {"$ref": f"#/definitions/{name}"}

    def _component(self, t: Any, wanted: Any) -> Schema:
        """Return the schema of a component: by its dotpath, one of those that fit; or one of the user's."""
        passed = passed_in(t)
        name = f"component:{getattr(wanted, '__module__', '')}.{getattr(wanted, '__qualname__', wanted)}:{passed}"
        if name not in self.definitions:
            self.definitions[name] = {}  # a component may take another of its own kind
            self.definitions[name] = self._alternatives(wanted, passed)
        return {"$ref": f"#/definitions/{name}"}

    def _alternatives(self, wanted: Any, passed: Passed) -> Schema:
        found = {path: self._call(path, fn, passed) for path, fn in components_for(wanted, passed)}
        named = {"anyOf": [{"enum": list(found)}, {"$ref": "#/definitions/foreign"}]}
        cases = [
            {
                "if": {"properties": {COMPONENT_KEY: {"const": path}}, "required": [COMPONENT_KEY]},
                "then": {"$ref": ref},
            }
            for path, ref in found.items()
        ]
        arguments = sorted({n for ref in found.values() for n in self._named(ref)["properties"]})
        # Without a dotpath it changes arguments of the layer below, whichever component that has.
        changes = {"propertyNames": {"enum": [n for n in arguments if n != COMPONENT_KEY]}}
        is_open = any(self._named(ref)["additionalProperties"] for ref in found.values())
        partial: Schema = {"if": {"not": {"required": [COMPONENT_KEY]}}, "then": {} if is_open else changes}
        whole = {"type": "object", "properties": {COMPONENT_KEY: named}, "allOf": [*cases, partial]}
        return _or_reference(whole)

    def _named(self, ref: str) -> Schema:
        found: Schema = self.definitions[ref.removeprefix("#/definitions/")]
        return found

    def _call(self, path: str, fn: Callable[..., Any], passed: Passed) -> str:
        """Define what a component's mapping may hold; return the reference to it."""
        name = f"{path}:{passed}" if passed != Passed() else path
        ref = f"#/definitions/{name}"
        if name in self.definitions:
            return ref
        known = parameters(fn)
        filled, fixed = passed.fills(known), dict(passed.fixed)
        self.definitions[name] = {"type": "object", "properties": {}, "additionalProperties": True}
        properties: dict[str, Schema] = {COMPONENT_KEY: {"const": path}}
        docs = documentation(fn)
        for p in known.values():
            if p.name in fixed:
                properties[p.name] = {"const": fixed[p.name]}
            elif p.name not in filled:
                default = REQUIRED if p.default is MISSING else p.default
                properties[p.name] = {
                    **_alone(self.of(argument_type(p))),
                    **_described(docs.get(p.name, ""), default),
                }
        self.definitions[name] = {
            "type": "object",
            "description": (inspect.getdoc(fn) or "").partition("\n")[0],
            "properties": properties,
            "required": [
                COMPONENT_KEY,
                *(p.name for p in known.values() if p.required and p.name not in filled),
            ],
            "additionalProperties": swallows_keywords(fn),
        }
        return ref


def _alone(schema: Schema) -> Schema:
    """Put a reference where keywords may stand beside it, which draft 7 ignores otherwise."""
    return {"allOf": [schema]} if "$ref" in schema else schema


def _or_reference(schema: Schema) -> Schema:
    return {"anyOf": [schema, _REFERENCE]}


def _flat(options: list[Schema]) -> list[Schema]:
    """Join alternatives of alternatives into one list, each once."""
    flat = [
        inner for option in options for inner in (option["anyOf"] if option.keys() == {"anyOf"} else [option])
    ]
    return [option for i, option in enumerate(flat) if option not in flat[:i]]


def _described(doc: str, default: Any) -> Schema:
    found: Schema = {"description": doc} if doc else {}
    if default is REQUIRED:
        return found
    try:
        return {**found, "default": unstructure(default)}
    except RejectedError:
        return found


def _dtypes(kind: type) -> list[str]:
    names = [name for name, value in vars(sys.modules["torch"]).items() if isinstance(value, kind)]
    return sorted([*names, *(f"torch.{name}" for name in names)])
