"""`tune schema`: a JSON Schema of a recipe's YAML, for an editor."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torchtune.cli._call import Call, help_or, load_recipe, read_call
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import json_schema
from torchtune.runs import Recipe

HELP = """\
usage: tune schema <recipe> [-o FILE]

Writes a JSON Schema of a recipe's YAML, with which an editor completes a
config, shows the documentation of its fields and underlines what is wrong. A
file names it in its first line:

  tune schema ./my_recipe.py -o my_recipe.json
  # yaml-language-server: $schema=my_recipe.json

The files of configs_yaml/, and what `tune cp` copies of them, have that line
already.
"""


def main(argv: Sequence[str]) -> int:
    """Write a schema."""
    call = read_call(argv, valued=("-o", "--output"))
    return help_or(call, HELP, lambda: write(call))


def write(call: Call) -> int:
    """Write a recipe's schema to a file or to standard output."""
    if not call.recipe or call.words or call.mistakes:
        raise ConfigError([*call.mistakes, Mistake("word", "tune schema takes a recipe")], "the command line")
    text = schema_of(load_recipe(call.recipe))
    target = call.flags.get("-o") or call.flags.get("--output")
    if target:
        Path(target).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {target}\n")
    else:
        sys.stdout.write(text)
    return 0


def schema_of(recipe: "Recipe[object]") -> str:
    """Return the JSON text of a recipe's schema.

    Raises:
        ConfigError: It has no config class, so nothing is known of its YAML.
    """
    if recipe.config_class is None:
        message = "has no config class, so there is nothing to describe"
        raise ConfigError.of_word(recipe.name, message)
    doc = (recipe.main.__doc__ or "").strip().partition("\n")[0]
    return json.dumps(json_schema(recipe.config_class, recipe.name, doc), indent=1, ensure_ascii=False) + "\n"
