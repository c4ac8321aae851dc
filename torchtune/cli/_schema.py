"""`tune schema`: a JSON Schema of a recipe's YAML, for an editor."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torchtune.cli._call import Call, help_or, load_recipe, read_call
from torchtune.cli._schema_files import schema_folder
from torchtune.config import ConfigError, Mistake, Recipe, json_schema, recipe_names

HELP = """\
usage: tune schema <recipe> [-o FILE]
       tune schema --all [-o FOLDER]

Writes a JSON Schema of a recipe's YAML, with which an editor completes a
config, shows the documentation of its fields and underlines what is wrong. A
file names it in its first line:

  tune schema ./my_recipe.py -o my_recipe.json
  # yaml-language-server: $schema=my_recipe.json

The files of configs_yaml/, and what `tune cp` copies of them, have that line
already; --all writes the schemas that it names, of every registered recipe.
"""


def main(argv: Sequence[str]) -> int:
    """Write a schema."""
    call = read_call(argv, switches=("--all",), valued=("-o", "--output"))
    return help_or(call, HELP, lambda: write(call))


def write(call: Call) -> int:
    """Write a recipe's schema to a file or to standard output, or the schema of every registered recipe."""
    for_all = "--all" in call.flags
    if bool(call.recipe) == for_all or call.words or call.mistakes:
        message = "tune schema takes a recipe, or --all"
        raise ConfigError([*call.mistakes, Mistake("", "", message)], "the command line")
    target = call.flags.get("-o") or call.flags.get("--output")
    if for_all:
        write_all(Path(target or schema_folder()))
    elif target:
        _write(Path(target), schema_of(load_recipe(call.recipe)))
    else:
        sys.stdout.write(schema_of(load_recipe(call.recipe)))
    return 0


def write_all(folder: Path) -> None:
    """Write the schema of every registered recipe; that of one without a config class accepts everything."""
    folder.mkdir(parents=True, exist_ok=True)
    for recipe in map(load_recipe, recipe_names()):
        anything = json.dumps({"title": f"A config of {recipe.name}"})
        _write(folder / f"{recipe.name}.json", schema_of(recipe) if recipe.config_class else anything)


def _write(file: Path, text: str) -> None:
    """Write beside the file and rename: an editor, or a second `tune`, may be reading it."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)
    sys.stdout.write(f"wrote {file}\n")


def schema_of(recipe: "Recipe[object]") -> str:
    """Return the JSON text of a recipe's schema.

    Raises:
        ConfigError: It has no config class, so nothing is known of its YAML.
    """
    if recipe.config_class is None:
        raise ConfigError([Mistake(recipe.name, "", "has no config class, so there is nothing to describe")])
    doc = (recipe.main.__doc__ or "").strip().partition("\n")[0]
    return json.dumps(json_schema(recipe.config_class, recipe.name, doc), indent=1, ensure_ascii=False) + "\n"
