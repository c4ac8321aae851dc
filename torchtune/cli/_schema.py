"""`tune schema`: write a JSON Schema of a recipe's YAML, for an editor."""

import json
import sys
from pathlib import Path

from torchtune import runs
from torchtune.cli._schema_files import schema_folder
from torchtune.cli._verb import OUTPUT, RECIPE, Form, Verb, write_output
from torchtune.config import ConfigError
from torchtune.runs.command_line import ALLOW, Call, Option

ALL = Option("--all", "write the schemas that the files of configs_yaml/ name", required=True)


def run(call: Call) -> int:
    """Write a recipe's schema to a file or to standard output, or the schema of every registered recipe."""
    if not call.has(ALL):
        return write_output(call, schema_of(runs.load_recipe(call.recipe)))
    write_all(Path(call.value(OUTPUT) or schema_folder()))
    return 0


def write_all(folder: Path) -> None:
    """Write the schema of every registered recipe; that of one without a config class accepts everything."""
    from torchtune.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    for recipe in map(runs.load_recipe, runs.recipe_names()):
        anything = json.dumps({"title": f"A config of {recipe.name}"})
        file = folder / f"{recipe.name}.json"
        write_text(file, schema_of(recipe) if recipe.config_class else anything)
        sys.stdout.write(f"wrote {file}\n")


def schema_of(recipe: "runs.Recipe[object]") -> str:
    """Return the JSON text of a recipe's schema.

    Raises:
        ConfigError: It has no config class, so nothing is known of its YAML.
    """
    from torchtune.cli._json_schema import json_schema  # loads the converter

    if recipe.config_class is None:
        raise ConfigError.of_word(recipe.name, "has no config class, so there is nothing to describe")
    doc = (recipe.main.__doc__ or "").strip().partition("\n")[0]
    schema = json_schema(recipe.config_class, recipe.name, doc)
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


VERB = Verb(
    "schema",
    run,
    forms=(Form((RECIPE,), (OUTPUT, ALLOW)), Form((), (ALL, OUTPUT))),
    takes="a recipe, or --all",
    about="""\
Writes a JSON Schema of a recipe's YAML, with which an editor completes a
config, shows the documentation of its fields and underlines what is wrong. The
files of configs_yaml/, and what `tune cp` copies of them, name theirs in the
first line already, and --all writes those; another file needs such a line as
the last one here.""",
    examples=(
        "tune schema ./my_recipe.py -o my_recipe.json",
        "# yaml-language-server: $schema=my_recipe.json",
    ),
)
