"""Build JSON Schemas for recipes' YAML configs, which let editors complete fields and report mistakes as you type.

The schemas follow draft 7 (https://json-schema.org/draft-07), which YAML language servers support. A schema accepts
every config that torchtune accepts. It also accepts some mistakes that only torchtune itself can find: contradictions,
references to missing fields, and components of packages that are not allowed.
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
    REQUIRED,
    SCALARS,
    TORCHTUNE_PACKAGES,
    Arguments,
    Field,
    RejectedError,
    Slot,
    accepts_kwargs,
    argument_type,
    choices,
    documentation,
    fields,
    is_any_type,
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
        config_class: The config class of the recipe.
        recipe: The name of the recipe, for the title.
        doc: The recipe's documentation.
    """
    writer = _Writer()
    required = [name for name, f in fields(config_class).items() if f.default is REQUIRED]
    base = {
        "type": "string",
        "description": "A registered config or a YAML file, whose fields this file overrides.",
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"A config of {recipe}",
        "description": doc,
        "type": "object",
        "properties": {BASE_KEY: base, **writer.properties(config_class)},
        "patternProperties": {
            f"^{HELPER_PREFIX}": {"description": "A value for YAML aliases to refer to; not a field."}
        },
        "additionalProperties": False,
        "if": {"not": {"required": [BASE_KEY]}},
        "then": {"required": required},
        "definitions": writer.definitions,
    }


def _shared_definitions() -> dict[str, Schema]:
    own_packages = "|".join(
        (*TORCHTUNE_PACKAGES, "torch", *sorted(n for n in sys.stdlib_module_names if not n.startswith("_")))
    )
    return {
        "reference": {
            "type": "string",
            "pattern": r"\$\{[^{}]+\}",
            "description": "The value of another field: ${a.b}",
        },
        "foreign": {
            "type": "string",
            "pattern": rf"^(?!({own_packages})\.)[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+$",
            "description": "A class or function in your code, or in a package that --allow names.",
        },
    }


@define
class _Writer:
    """Writes the schemas of types; each component and section becomes one shared definition."""

    definitions: dict[str, Schema] = field(factory=_shared_definitions)

    def properties(self, cls: type) -> dict[str, Schema]:
        """Return the schemas of a config class's fields."""
        slots = section_slots(cls)
        return {name: self._field(f, slots[name]) for name, f in fields(cls).items()}

    def _field(self, f: Field, slot: Slot) -> Schema:
        schema = {**_extensible(self.type_schema(f.type)), **_with_documentation(slot.doc, slot.default)}
        for rule in rules(f.validator):
            schema.update(rule.schema)
        if isinstance(f.validator, Arguments):
            schema["properties"] = {name: dict(rule.schema) for name, rule in f.validator.rules.items()}
        return schema

    def type_schema(self, t: Any) -> Schema:
        """Return the schema of a type."""
        stripped = strip(t)
        if is_any_type(stripped):
            return {}
        if is_union(stripped):
            options = _flattened([self.type_schema(member) for member in typing.get_args(stripped)])
            return options[0] if len(options) == 1 else {"anyOf": options}
        if is_component_type(stripped):
            return self._component(t, (typing.get_args(stripped) or (Any,))[0])
        if is_section(stripped):
            return _or_reference(self._section(stripped))
        if (plain := self._plain(stripped)) is not None:
            return plain
        if getattr(stripped, "__module__", "").partition(".")[0] in _FOREIGN:
            # Such components are rarely used in configs, and their schemas would be long.
            return _or_reference({"type": "object", "required": [COMPONENT_KEY]})
        return self._component(t, stripped)

    def _plain(self, t: Any) -> Schema | None:
        """Return the schema of a scalar, a choice or a collection; None for anything else."""
        if t in SCALARS:
            return {"type": _TYPES[t]} if t in (str, type(None)) else _or_reference({"type": _TYPES[t]})
        if options := choices(t):
            return _or_reference({"enum": options})
        if is_torch_name(t):
            return {"type": "string"} if t.__name__ == "device" else _or_reference({"enum": _dtypes(t)})
        if is_path(t):
            return {"type": "string"}
        if mapping_of(t) is not None:
            return _or_reference(self._mapping(t))
        return _or_reference(self._collection(t)) if is_collection_type(t) else None

    def _mapping(self, t: Any) -> Schema:
        if typing.is_typeddict(t):
            properties = {
                name: self.type_schema(storable(strip(hint))) for name, hint in type_hints(t).items()
            }
            required = sorted(t.__required_keys__)
            return {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        _, value = typing.get_args(t) or (Any, Any)
        return {"type": "object", "additionalProperties": self.type_schema(value)}

    def _collection(self, t: Any) -> Schema:
        args = typing.get_args(t)
        if typing.get_origin(t) is tuple and Ellipsis not in args:
            items = [self.type_schema(a) for a in args]
            return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
        return {"type": "array", "items": self.type_schema(args[0]) if args else {}}

    def _section(self, cls: type) -> Schema:
        """Return a section's schema; its fields are not required, because a base config may set them."""
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # a section may contain itself
            self.definitions[name] = {
                "type": "object",
                "description": (inspect.getdoc(cls) or "").partition("\n")[0],
                "properties": self.properties(cls),
                "additionalProperties": False,
            }
        return {"$ref": f"#/definitions/{name}"}

    def _component(self, t: Any, kind: Any) -> Schema:
        """Return the schema of a component: a registered component of a kind, or a component in the user's code."""
        supplied = passed_in(t)
        name = f"component:{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)}:{supplied}"
        if name not in self.definitions:
            self.definitions[name] = {}  # a component may have an argument of the same kind
            self.definitions[name] = self._alternatives(kind, supplied)
        return {"$ref": f"#/definitions/{name}"}

    def _alternatives(self, kind: Any, supplied: Passed) -> Schema:
        refs = {path: self._call(path, fn, supplied) for path, fn in components_for(kind, supplied)}
        dotpath = {"anyOf": [{"enum": list(refs)}, {"$ref": "#/definitions/foreign"}]}
        cases = [
            {
                "if": {"properties": {COMPONENT_KEY: {"const": path}}, "required": [COMPONENT_KEY]},
                "then": {"$ref": ref},
            }
            for path, ref in refs.items()
        ]
        arguments = sorted({n for ref in refs.values() for n in self._resolve(ref)["properties"]})
        # Without a dotpath, the mapping changes arguments of the base config's component, which the schema cannot know.
        changes = {"propertyNames": {"enum": [n for n in arguments if n != COMPONENT_KEY]}}
        is_open = any(self._resolve(ref)["additionalProperties"] for ref in refs.values())
        partial: Schema = {"if": {"not": {"required": [COMPONENT_KEY]}}, "then": {} if is_open else changes}
        return _or_reference(
            {"type": "object", "properties": {COMPONENT_KEY: dotpath}, "allOf": [*cases, partial]}
        )

    def _resolve(self, ref: str) -> Schema:
        definition: Schema = self.definitions[ref.removeprefix("#/definitions/")]
        return definition

    def _call(self, path: str, fn: Callable[..., Any], supplied: Passed) -> str:
        """Define the schema of a component's mapping, and return the reference to it."""
        name = f"{path}:{supplied}" if supplied != Passed() else path
        ref = f"#/definitions/{name}"
        if name in self.definitions:
            return ref
        arguments = parameters(fn)
        filled, fixed = supplied.filled_parameters(arguments), dict(supplied.fixed)
        self.definitions[name] = {"type": "object", "properties": {}, "additionalProperties": True}
        properties: dict[str, Schema] = {COMPONENT_KEY: {"const": path}}
        docs = documentation(fn)
        for p in arguments.values():
            if p.name in fixed:
                properties[p.name] = {"const": fixed[p.name]}
            elif p.name not in filled:
                default = REQUIRED if p.default is MISSING else p.default
                properties[p.name] = {
                    **_extensible(self.type_schema(argument_type(p))),
                    **_with_documentation(docs.get(p.name, ""), default),
                }
        self.definitions[name] = {
            "type": "object",
            "description": (inspect.getdoc(fn) or "").partition("\n")[0],
            "properties": properties,
            "required": [
                COMPONENT_KEY,
                *(p.name for p in arguments.values() if p.required and p.name not in filled),
            ],
            "additionalProperties": accepts_kwargs(fn),
        }
        return ref


def _extensible(schema: Schema) -> Schema:
    """Wrap a reference so that keywords can be added; draft 7 ignores keywords next to `$ref`."""
    return {"allOf": [schema]} if "$ref" in schema else schema


def _or_reference(schema: Schema) -> Schema:
    return {"anyOf": [schema, _REFERENCE]}


def _flattened(options: list[Schema]) -> list[Schema]:
    """Flatten nested alternatives into one list without duplicates."""
    flat = [
        inner for option in options for inner in (option["anyOf"] if option.keys() == {"anyOf"} else [option])
    ]
    return [option for i, option in enumerate(flat) if option not in flat[:i]]


def _with_documentation(doc: str, default: Any) -> Schema:
    schema: Schema = {"description": doc} if doc else {}
    if default is REQUIRED:
        return schema
    try:
        return {**schema, "default": unstructure(default)}
    except RejectedError:
        return schema


def _dtypes(kind: type) -> list[str]:
    names = [name for name, value in vars(sys.modules["torch"]).items() if isinstance(value, kind)]
    return sorted([*names, *(f"torch.{name}" for name in names)])
