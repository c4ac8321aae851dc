"""`tune show`: the resolved config, with --origins where each value came from."""

import math
import sys
from collections.abc import Sequence
from typing import Any

from torchtune.cli._call import Call, help_or, layers_of, print_notes, read_call
from torchtune.cli._style import painted_yaml
from torchtune.config.model import Layers, dotted, inline_yaml, leaves, render_yaml

HELP = """\
usage: tune show <recipe> --config <name or path> [--override key=value ...]
                 [--origins] [--json]

Prints the resolved config.

  tune show lora_finetune --config smollm2_135m_lora --origins
"""


def main(argv: Sequence[str]) -> int:
    """Show a config."""
    call = read_call(argv, switches=("--origins", "--json"))
    return help_or(call, HELP, lambda: show(call))


def show(call: Call) -> int:
    """Print a config that is free of mistakes."""
    recipe, layers = layers_of(call)
    print_notes(layers)
    layers.build(f"the config of {recipe.name}")
    tree = layers.resolve()
    if "--json" in call.flags:
        import json

        shown = with_origins_as_rows(layers) if "--origins" in call.flags else tree
        sys.stdout.write(json.dumps(_finite(shown), indent=2) + "\n")
    elif "--origins" in call.flags:
        sys.stdout.write(painted_yaml(with_origins(layers)))
    else:
        sys.stdout.write(painted_yaml(render_yaml(tree)))
    return 0


def with_origins_as_rows(layers: Layers) -> list[dict[str, object]]:
    """Return every leaf with its origin, for a script."""
    return [
        {"path": dotted(path), "value": value, "origin": _origin(layers, path, value)}
        for path, value in leaves(layers.resolve())
    ]


def _origin(layers: Layers, path: tuple[str | int, ...], value: object) -> str:
    """Return where a leaf was written; a list's is where it was last changed."""
    return str(layers.last_origin(path) if isinstance(value, list) else layers.origin(path))


def _finite(tree: Any) -> Any:
    """Return a tree that JSON can hold: infinity and NaN as YAML writes them, in text."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return inline_yaml(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def with_origins(layers: Layers) -> str:
    """Return a line for every leaf: its path and value, and where it was written."""
    rows = [
        (dotted(path), inline_yaml(value), _origin(layers, path, value))
        for path, value in leaves(layers.resolve())
    ]
    left = max(len(f"{path}: {value}") for path, value, _ in rows)
    width = min(left, 80) + 2
    return "".join(f"{f'{path}: {value}':{width}}# {origin}".rstrip() + "\n" for path, value, origin in rows)
