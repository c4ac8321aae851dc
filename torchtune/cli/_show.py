"""`tune show`: the resolved config, with --origins where each value came from."""

import sys
from collections.abc import Sequence

from torchtune.cli._call import Call, help_or, layers_of, print_notes, read_call
from torchtune.cli._style import painted_yaml
from torchtune.config import Layers, dotted, inline_yaml, leaves, render_yaml

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

        sys.stdout.write(json.dumps(tree, indent=2) + "\n")
    elif "--origins" in call.flags:
        sys.stdout.write(painted_yaml(with_origins(layers)))
    else:
        sys.stdout.write(painted_yaml(render_yaml(tree)))
    return 0


def with_origins(layers: Layers) -> str:
    """Return a line for every leaf: its path and value, and where it was written."""
    rows = [
        (dotted(path), inline_yaml(value), layers.origin(path).text)
        for path, value in leaves(layers.resolve())
    ]
    left = max(len(f"{path}: {value}") for path, value, _ in rows)
    width = min(left, 80) + 2
    return "".join(f"{f'{path}: {value}':{width}}# {origin}".rstrip() + "\n" for path, value, origin in rows)
