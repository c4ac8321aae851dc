"""`tune schema`: write a JSON Schema for a recipe's YAML configs, for editors."""

import json
import sys
from pathlib import Path

from torchtune import runs
from torchtune.cli._command import OUTPUT, RECIPE, Command, Form, write_output
from torchtune.cli._schema_files import schema_folder
from torchtune.config import ConfigError
from torchtune.runs.command_line import ALLOW, Call, Option

ALL = Option("--all", "write the schemas of all registered recipes; -o then sets the folder", required=True)


def run(call: Call) -> int:
    """Write a recipe's schema to a file or to standard output, or the schemas of all registered recipes."""
    if not call.has(ALL):
        return write_output(call, build_schema(runs.load_recipe(call.recipe)))
    write_all(Path(call.value(OUTPUT) or schema_folder()))
    return 0


def write_all(folder: Path) -> None:
    """Write the schemas of all registered recipes; for a recipe without a config class, it accepts every config."""
    from torchtune.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    for recipe in map(runs.load_recipe, runs.recipe_names()):
        permissive_schema = json.dumps({"title": f"A config of {recipe.name}"})
        file = folder / f"{recipe.name}.json"
        write_text(file, build_schema(recipe) if recipe.config_class else permissive_schema)
        sys.stdout.write(f"wrote {file}\n")


def build_schema(recipe: "runs.Recipe[object]") -> str:
    """Return the JSON text of a recipe's schema.

    Raises:
        ConfigError: The recipe has no config class.
    """
    from torchtune.cli._json_schema import json_schema

    if recipe.config_class is None:
        raise ConfigError.of_argument(recipe.name, "the recipe has no config class, and therefore no schema")
    doc = (recipe.main.__doc__ or "").strip().partition("\n")[0]
    schema = json_schema(recipe.config_class, recipe.name, doc)
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


COMMAND = Command(
    "schema",
    run,
    forms=(Form((RECIPE,), (OUTPUT, ALLOW)), Form((), (ALL, OUTPUT))),
    expects="a recipe, or --all",
    description="""\
Writes a JSON Schema for a recipe's YAML configs, which lets an editor complete
fields, show their documentation and underline mistakes. The files in
configs_yaml/, and copies created with `tune cp`, already refer to their schemas
in the first line; --all writes these schemas. At the top of your own files, add
the line in the second example below.""",
    examples=(
        "tune schema ./my_recipe.py -o my_recipe.json",
        "# yaml-language-server: $schema=my_recipe.json",
    ),
)
