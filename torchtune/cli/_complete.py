"""Complete a `tune` command line for a shell, from the registry, the rendered YAML configs and the JSON schemas.

This module does not import recipes, so completion is as fast as `tune ls`.
"""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torchtune.cli import commands, load_command
from torchtune.cli._command import Command
from torchtune.cli._schema_files import schema_folder
from torchtune.runs import config_names, config_sources, folder_of, recipe_names
from torchtune.runs.command_line import (
    CONFIGS,
    HELP,
    LAUNCH_OPTIONS,
    OVERRIDE,
    RECIPES,
    Call,
    Option,
    names_of,
)

Schema = Mapping[str, Any]
SOURCES = {RECIPES: recipe_names, CONFIGS: config_sources}


def main(argv: Sequence[str]) -> int:
    """Print the completions of the last argument of a line; the arguments are `SHELL LINE`."""
    shell, line = argv
    args = split(line)
    matches = sorted({c for c in candidates(args[1:]) if c.startswith(args[-1])})
    if shell == "bash":  # bash splits words at `=` and `:`, and replaces only the text after them
        cut = max(args[-1].rfind("="), args[-1].rfind(":")) + 1
        matches = [c[cut:] for c in matches]
    sys.stdout.write("".join(f"{c}\n" for c in matches))
    return 0


def split(line: str) -> list[str]:
    """Split an unfinished line into arguments; the last argument, possibly empty, is the one being typed."""
    try:
        args = shlex.split(line)
    except ValueError:  # a quote is not closed yet
        args = line.replace("'", " ").replace('"', " ").split()
    return [*args, ""] if not args or line[-1:].isspace() else args


def candidates(args: Sequence[str]) -> Iterator[str]:
    """Yield the possible values of the last argument.

    Args:
        args: The arguments after `tune`.
    """
    *before, current = args
    if not before:
        yield from (*commands(), *recipe_names())
        yield from names_of(LAUNCH_OPTIONS) if current.startswith("-") else ()
        return
    is_named = before[0] in commands()
    command = load_command(before[0] if is_named else "run")
    call = command.read(before[1:] if is_named else before)
    options = {name: option for option in (*command.launch, *command.options) for name in option.names}
    name, equals, _ = current.partition("=")
    option = options.get(before[-1])
    if option is not None and option.value and option is not OVERRIDE:
        yield from _values_of(option, call)
    elif equals and name in options:
        yield from (f"{name}={value}" for value in _values_of(options[name], call))
    else:
        yield from _arguments_of(command, call, current)


def _values_of(option: Option, call: Call) -> Iterator[str]:
    """Yield the possible values of an option."""
    yield from option.choices
    if CONFIGS in option.completions:
        yield from config_names().get(call.recipe, config_sources())


def _arguments_of(command: Command, call: Call, current: str) -> Iterator[str]:
    """Yield the possible positional arguments, overrides and options."""
    position = len(call.arguments)
    for form in command.forms:
        for argument in form.arguments[position : position + 1]:
            for completion in argument.completions:
                yield from SOURCES[completion]() if completion in SOURCES else (completion,)
    if command.takes_overrides and call.recipe in recipe_names():
        yield from _overrides(call, current)
    if current.startswith("-") or command.takes_overrides:
        yield from names_of(command.launch) if not call.recipe else ()
        yield from names_of((*command.options, HELP))


def _overrides(call: Call, current: str) -> Iterator[str]:
    """Yield the override keys of a recipe (`key=`, `--key=`, `+key=`), or the values of a complete key."""
    schema = _schema(call.recipe)
    tree = _tree(call)
    dashes = next((prefix for prefix in ("--", "+") if current.startswith(prefix)), "")
    key, equals, _ = current.removeprefix(dashes).partition("=")
    if equals:
        yield from (f"{dashes}{key}={value}" for value in _values(schema, tree, key))
    else:
        yield from (f"{dashes}{k}=" for k in _keys(schema, schema, tree, ""))


def _schema(recipe: str) -> Schema:
    file = os.path.join(schema_folder(), f"{recipe}.json")  # noqa: PTH118 -- importing pathlib is slow
    with suppress(OSError), open(file, encoding="utf-8") as stream:  # noqa: PTH123
        return dict(json.load(stream))
    return {}


def _tree(call: Call) -> Any:
    """Return the rendered tree of the command line's config, with the components that its overrides set."""
    from torchtune.config.model import read_yaml

    tree: dict[str, Any] = {}
    if call.config in config_sources():
        value = read_yaml(os.path.join(folder_of("configs_yaml"), f"{call.config}.yaml")).value  # noqa: PTH118
        tree = value if isinstance(value, dict) else {}
    for override in call.overrides:
        key, equals, text = override.removeprefix("--").partition("=")
        if equals and "." in text and text.replace(".", "").replace("_", "").isalnum():
            tree[key] = {"_component_": text}
    return tree


def _keys(root: Schema, schema: Schema, tree: Any, prefix: str) -> Iterator[str]:
    """Yield the dotted field paths below a value."""
    for name, inner in _properties(root, schema, tree).items():
        if name not in ("_base_", "_component_"):
            yield f"{prefix}{name}"
            yield from _keys(root, inner, _value_at(tree, name), f"{prefix}{name}.")


def _value_at(tree: Any, key: str) -> Any:
    return tree.get(key) if isinstance(tree, Mapping) else None


def _properties(root: Schema, schema: Schema, tree: Any) -> dict[str, Schema]:
    """Return the properties of a mapping: the fields of a section, or the arguments of a component."""
    properties: dict[str, Schema] = dict(schema.get("properties", {}))
    for option in _options(root, schema):
        if "allOf" in option and "_component_" in option.get("properties", {}):
            properties = _component_arguments(root, option, tree) or properties
        elif "properties" in option:
            properties.update(option["properties"])
    return properties


def _component_arguments(root: Schema, component: Schema, tree: Any) -> dict[str, Schema]:
    dotpath = _value_at(tree, "_component_")
    for case in component["allOf"]:
        if case["if"].get("properties", {}).get("_component_", {}).get("const") == dotpath and dotpath:
            return dict(_target(root, case["then"])["properties"])
    return {}


def _options(root: Schema, schema: Schema) -> Iterator[Schema]:
    """Yield the alternatives of a schema, with references resolved."""
    schema = _target(root, schema)
    inner = [*schema.get("anyOf", ()), *(s for s in schema.get("allOf", ()) if "$ref" in s)]
    if not inner:
        yield schema
    for option in inner:
        yield from _options(root, option)


def _target(root: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    return schema


def _values(root: Schema, tree: Any, key: str) -> Iterator[str]:
    """Yield the possible values of a field: dotpaths, choices, true and false, null."""
    schema: Schema = root
    for part in key.split("."):
        schema, tree = _properties(root, schema, tree).get(part, {}), _value_at(tree, part)
    for option in _options(root, schema):
        yield from (str(choice) for choice in option.get("enum", ()))
        if option.get("type") == "boolean":
            yield from ("true", "false")
        if option.get("type") == "null":
            yield "null"
        components = option.get("properties", {}).get("_component_", {}).get("anyOf", ())
        yield from (path for choice in components for path in choice.get("enum", ()))
