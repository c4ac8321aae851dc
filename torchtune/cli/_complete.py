"""What may follow on a command line that is being typed: from the registry, the renderings and the schemas.

Nothing here imports a recipe, so an answer takes no longer than `tune ls`.
"""

import itertools
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torchtune.cli import VERBS
from torchtune.cli._schema_files import schema_folder
from torchtune.config import config_names, config_sources, folder_of, recipe_names

Schema = Mapping[str, Any]

RUNNING = ("--config", "--override", "--allow", "--overwrite", "--help")
OPTIONS = {
    "ls": ("--json",),
    "cp": ("--force",),
    "run": RUNNING,
    "show": ("--config", "--override", "--allow", "--origins", "--json"),
    "export": ("--config", "--override", "--allow", "--resolved", "-o"),
    "validate": ("--config", "--override", "--allow", "--all", "--json", "--nproc_per_node"),
    "data": (
        "--config",
        "--override",
        "--allow",
        "--nproc_per_node",
        "--rows",
        "--limit",
        "--html",
        "--held-out",
    ),
    "plot": ("-o", "--output", "--smooth"),
    "diff": ("--json",),
    "schema": ("-o", "--all"),
    "import": ("-o", "--force"),
    "convert": ("--base", "--apart", "--tokenizer", "--dtype"),
    "download": ("--output-dir", "--revision", "--include", "--ignore"),
}
"""The options of each verb, beside `--help`."""
TAKE_CONFIG = ("run", "show", "export", "validate", "data")


def main(argv: Sequence[str]) -> int:
    """Print the candidates for the last word of a line: `__complete SHELL LINE`."""
    shell, line = argv
    words = split(line)
    found = sorted({c for c in candidates(words[1:]) if c.startswith(words[-1])})
    if shell == "bash":  # its words end at `=` and `:`, which stand before what it replaces
        cut = max(words[-1].rfind("="), words[-1].rfind(":")) + 1
        found = [c[cut:] for c in found]
    sys.stdout.write("".join(f"{c}\n" for c in found))
    return 0


def split(line: str) -> list[str]:
    """Split a line that is being typed into words; the last one is what is being typed, which may be empty."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.replace("'", " ").replace('"', " ").split()
    return [*words, ""] if not words or line[-1:].isspace() else words


def candidates(words: Sequence[str]) -> Iterator[str]:
    """Yield what the last of the words may be.

    Args:
        words: Those behind `tune`.
    """
    *before, current = words
    verb = before[0] if before and before[0] in VERBS else "run"
    rest = before[1:] if before and before[0] == verb else before
    recipe = next((w for w in rest if w in recipe_names()), None)
    if before and before[-1] == "--config":
        yield from config_names().get(recipe or "", config_sources())
    elif not before:
        yield from (*VERBS, *recipe_names())
    elif verb == "completion":
        yield from ("bash", "zsh", "fish")
    elif verb == "cp" and not rest:
        yield from (*recipe_names(), *config_sources())
    elif verb == "diff":
        yield from (*config_sources(), *OPTIONS["diff"])
    elif verb == "plot":  # of runs, which are folders
        yield from OPTIONS["plot"] if current.startswith("-") else ()
    elif recipe is None and verb not in ("cp", "download", "convert"):
        yield from (*recipe_names(), *OPTIONS.get(verb, ()))
    elif verb in TAKE_CONFIG and recipe is not None:
        yield from _overrides(recipe, rest, current)
        yield from OPTIONS.get(verb, ())
    else:
        yield from OPTIONS.get(verb, ())


def _overrides(recipe: str, words: Sequence[str], current: str) -> Iterator[str]:
    """Yield override keys of a recipe in their spellings, and values for a key that is written."""
    schema = _schema(recipe)
    tree = _tree(words)
    dashes = "--" if current.startswith("--") else "+" if current.startswith("+") else ""
    key, equals, _ = current.removeprefix(dashes).partition("=")
    if not equals:
        if current.startswith("--config"):
            return
        yield from (f"{dashes}{k}=" for k in _keys(schema, schema, tree, ""))
        return
    if dashes and key == "config":
        yield from (f"--config={name}" for name in config_names()[recipe])
        return
    yield from (f"{dashes}{key}={value}" for value in _values(schema, tree, key))


def _schema(recipe: str) -> Schema:
    file = os.path.join(schema_folder(), f"{recipe}.json")  # noqa: PTH118 -- see `tune diff`
    try:
        with open(file, encoding="utf-8") as stream:  # noqa: PTH123
            found: Schema = json.load(stream)
    except OSError:
        return {}
    return found


def _tree(words: Sequence[str]) -> Any:
    """Return the rendering of the config that the line names, with the components that it swaps."""
    from torchtune.config import read_yaml

    named = [w.removeprefix("--config=") for w in words if w.startswith("--config=")]
    named += [after for word, after in itertools.pairwise(words) if word == "--config"]
    tree: dict[str, Any] = {}
    if named and named[-1] in config_sources():
        value = read_yaml(os.path.join(folder_of("configs_yaml"), f"{named[-1]}.yaml")).value  # noqa: PTH118
        tree = value if isinstance(value, dict) else {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if equals and "." in text and text.replace(".", "").replace("_", "").isalnum():
            tree[key] = {"_component_": text}
    return tree


def _keys(root: Schema, schema: Schema, tree: Any, prefix: str) -> Iterator[str]:
    """Yield the dotted keys below a value."""
    for name, inner in _properties(root, schema, tree).items():
        if name in ("_base_", "_component_"):
            continue
        yield f"{prefix}{name}"
        below = tree.get(name) if isinstance(tree, Mapping) else None
        yield from _keys(root, inner, below, f"{prefix}{name}.")


def _properties(root: Schema, schema: Schema, tree: Any) -> dict[str, Schema]:
    """Return the properties of a mapping at a place: those of its section, or of the component that it is."""
    found: dict[str, Schema] = dict(schema.get("properties", {}))
    for option in _options(root, schema):
        if "allOf" in option and "_component_" in option.get("properties", {}):
            found = _arguments(root, option, tree) or found
        elif "properties" in option:
            found.update(option["properties"])
    return found


def _arguments(root: Schema, whole: Schema, tree: Any) -> dict[str, Schema]:
    named = tree.get("_component_") if isinstance(tree, Mapping) else None
    for case in whole["allOf"]:
        if case["if"].get("properties", {}).get("_component_", {}).get("const") == named and named:
            found: dict[str, Schema] = _target(root, case["then"])["properties"]
            return found
    return {}


def _options(root: Schema, schema: Schema) -> Iterator[Schema]:
    """Yield the alternatives of a schema, references followed."""
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
    """Yield what may stand behind a key: dotpaths, choices, true and false, null."""
    schema: Schema = root
    for part in key.split("."):
        below = _properties(root, schema, tree).get(part)
        if below is None:
            return
        schema, tree = below, tree.get(part) if isinstance(tree, Mapping) else None
    for option in _options(root, schema):
        yield from (str(choice) for choice in option.get("enum", ()))
        if option.get("type") == "boolean":
            yield from ("true", "false")
        if option.get("type") == "null":
            yield "null"
        named = option.get("properties", {}).get("_component_", {}).get("anyOf", ())
        yield from (path for choice in named for path in choice.get("enum", ()))
