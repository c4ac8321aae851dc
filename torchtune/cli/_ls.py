"""`tune ls`: recipes and their configs, a line each."""

import sys
from collections.abc import Sequence

from torchtune.cli._style import paint
from torchtune.runs import config_names, config_sources, recipe_names, recipe_source

HELP = """\
usage: tune ls [recipe] [--json]

Lists the recipes and their configs, a line each.

  tune ls
  tune ls lora_finetune
"""


def main(argv: Sequence[str]) -> int:
    """List recipes and configs."""
    words = [word for word in argv if not word.startswith("-")]
    if unknown := [w for w in argv if w.startswith("-") and w not in ("-h", "--help", "--json")] or words[1:]:
        sys.stderr.write(f"tune ls: {unknown[0]!r} is not understood\n{HELP}")
        return 2
    if "-h" in argv or "--help" in argv:
        sys.stdout.write(HELP)
        return 0
    listed = rows(words[0] if words else None)
    if "--json" in argv:
        import json

        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
    else:
        sys.stdout.write(table(listed))
    return 0


def rows(recipe: str | None = None) -> list[dict[str, object]]:
    """Return each recipe with its documentation and its configs.

    Raises:
        ConfigError: There is no recipe of this name.
    """
    names = [recipe_source(recipe).name] if recipe else list(recipe_names())
    sources, configs = config_sources(), config_names()
    return [
        {
            "recipe": name,
            "doc": recipe_source(name).doc,
            "configs": [{"config": c, "doc": sources[c].doc} for c in configs.get(name, ())],
        }
        for name in names
    ]


def table(listed: list[dict[str, object]]) -> str:
    """Return the rows as text, configs indented below their recipe."""
    pairs: list[tuple[str, str]] = []
    for row in listed:
        pairs.append((str(row["recipe"]), str(row["doc"])))
        configs = row["configs"]
        assert isinstance(configs, list)
        pairs += [(f"  {c['config']}", c["doc"]) for c in configs]
    width = max(len(name) for name, _ in pairs) + 2
    return "".join(f"{_painted(name, width)}{doc}".rstrip() + "\n" for name, doc in pairs)


def _painted(name: str, width: int) -> str:
    return paint(name, "cyan" if name.startswith(" ") else "bold") + " " * (width - len(name))
