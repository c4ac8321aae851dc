"""`tune ls`: list recipes and their configs."""

import sys
from typing import Any

from torchtune.cli._command import JSON, Argument, Command, Form, write_json
from torchtune.runs import config_names, config_sources, recipe_names, recipe_source
from torchtune.runs.command_line import RECIPES, Call
from torchtune.runs.console import paint


def run(call: Call) -> int:
    """Print the recipes and their configs."""
    recipes = rows(call.recipe)
    if call.has(JSON):
        write_json(recipes)
    else:
        sys.stdout.write(table(recipes))
    return 0


def rows(recipe: str = "") -> list[dict[str, Any]]:
    """Return each recipe with its documentation and its configs.

    Raises:
        ConfigError: There is no recipe of this name.
    """
    sources, configs = config_sources(), config_names()
    return [
        {
            "recipe": name,
            "doc": recipe_source(name).doc,
            "configs": [{"config": c, "doc": sources[c].doc} for c in configs.get(name, ())],
        }
        for name in ([recipe] if recipe else recipe_names())
    ]


def table(recipes: list[dict[str, Any]]) -> str:
    """Return the rows as text, with configs indented below their recipe."""
    pairs: list[tuple[str, str]] = []
    for row in recipes:
        pairs.append((row["recipe"], row["doc"]))
        pairs += [(f"  {c['config']}", c["doc"]) for c in row["configs"]]
    width = max(len(name) for name, _ in pairs) + 2
    return "".join(f"{_painted(name, width)}{doc}".rstrip() + "\n" for name, doc in pairs)


def _painted(name: str, width: int) -> str:
    return paint(name, "cyan" if name.startswith(" ") else "bold") + " " * (width - len(name))


COMMAND = Command(
    "ls",
    run,
    forms=(Form((Argument("[recipe]", (RECIPES,), min_count=0),), (JSON,)),),
    expects="a recipe, or no argument",
    description="Lists the recipes and their configs, one per line.",
    examples=("tune ls", "tune ls lora_finetune"),
)
