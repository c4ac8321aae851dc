"""`tune cp`: copy a recipe or a config to edit it."""

import os
import sys

from torchtune.cli._command import FORCE, Argument, Command, Form
from torchtune.cli._schema_files import schema_file
from torchtune.runs import (
    config_names,
    config_source,
    config_sources,
    folder_of,
    recipe_file,
    recipe_names,
    unknown_name,
)
from torchtune.runs.command_line import CONFIGS, RECIPES, Call

_REQUIRED_OVERRIDES = {
    "lora": "model_directory=DIR dataset.source=rows.jsonl",
    "full": "model_directory=DIR dataset.source=rows.jsonl",
    "generate": "model_directory=DIR",
}
"""Configs for any model, each with the overrides that a run requires."""


def run(call: Call) -> int:
    """Copy a recipe or a config."""
    name, path = call.arguments
    if os.path.isdir(path):  # noqa: PTH112 -- importing pathlib slows `tune cp` by 10%
        extension = ".py" if name in recipe_names() else ".yaml"
        path = os.path.join(path, name + extension)  # noqa: PTH118
    text = copy_of(name, path)
    if os.path.exists(path) and not call.has(FORCE):  # noqa: PTH110
        sys.stderr.write(f"tune cp: {path} already exists; choose a different path, or pass --force\n")
        return 2
    try:
        with open(path, "w", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write(text)
    except OSError as error:
        sys.stderr.write(f"tune cp: {path}: {error.strerror}\n")
        return 2
    sys.stdout.write(f"copied {name} to {path}; run: {_command(name, path)}\n")
    return 0


def _command(name: str, path: str) -> str:
    """Return the command that runs a copy."""
    configs = config_names()
    if name in configs:
        config = next(
            (f"{c} {_REQUIRED_OVERRIDES[c]}" for c in _REQUIRED_OVERRIDES if c in configs[name]), "..."
        )
        return f"tune {path if '/' in path else f'./{path}'} --config {config}"
    recipe = next(recipe for recipe, names in configs.items() if name in names)
    return f"tune {recipe} --config {path}" + (f":{name}" if path.endswith(".py") else "")


def copy_of(name: str, path: str) -> str:
    """Return the text of a copy.

    Raises:
        ConfigError: There is no such recipe or config.
        ValueError: The recipe or config cannot be copied to a path with this extension.
    """
    if name in recipe_names():
        if not path.endswith(".py"):
            raise ValueError(f"{path}: a recipe is a Python file; the path must end in .py")
        return _read(recipe_file(name))
    if name not in config_sources():
        raise unknown_name("recipe or config", name, [*recipe_names(), *config_sources()])
    if path.endswith((".yaml", ".yml")):
        return _with_schema(_read(os.path.join(folder_of("configs_yaml"), f"{name}.yaml")), path)  # noqa: PTH118
    if path.endswith(".py"):
        if config_source(name).file.endswith(".yaml"):
            raise ValueError(f"{path}: the config {name} is written in YAML, so the path must end in .yaml")
        from torchtune.cli._excerpt import excerpt

        return excerpt(_read(config_source(name).file), name)
    raise ValueError(f"{path}: configs can only be copied to .py or .yaml files")


def _with_schema(text: str, path: str) -> str:
    """Return rendered YAML whose first line is the path of its schema, relative to the copy, or the recipe's name."""
    comment, newline, body = text.partition("\n")
    recipe = comment.rpartition("$schema=schemas/")[2].removesuffix(".json")
    if recipe == comment:
        return text
    schema = schema_file(recipe)
    if schema is None:
        return f"# recipe: {recipe}{newline}{body}"
    folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    relative = os.path.relpath(os.path.realpath(schema), folder)
    return f"# yaml-language-server: $schema={relative}{newline}{body}"


def _read(file: str) -> str:
    with open(file, encoding="utf-8") as stream:  # noqa: PTH123
        return stream.read()


COMMAND = Command(
    "cp",
    run,
    forms=(Form((Argument("<recipe or config>", (RECIPES, CONFIGS)), Argument("<path>")), (FORCE,)),),
    expects="a name and a path",
    description="""\
Copies a recipe (a .py file) or a config. A config is copied as YAML, or as a
Python function with its imports and helpers. The copy can be run without
changes.""",
    examples=(
        "tune cp lora_finetune my_recipe.py",
        "tune ./my_recipe.py --config smollm2_135m_lora",
        "tune cp smollm2_135m_lora my_run.yaml",
        "tune lora_finetune --config my_run.yaml",
        "tune cp smollm2_135m_lora my_runs.py",
        "tune lora_finetune --config my_runs.py",
    ),
)
