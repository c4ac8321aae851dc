"""`tune export`: the frozen YAML of a run, from which it is the same run."""

import sys
from collections.abc import Sequence
from pathlib import Path

from torchtune.cli._call import Call, help_or, layers_of, print_notes, read_call

HELP = """\
usage: tune export <recipe> --config <name or path> [--override key=value ...]
                   [-o FILE] [--resolved]

Writes the frozen YAML: complete and self-contained, the defaults of every
argument spelt out. References stay references; --resolved expands them.

  tune export lora_finetune --config smollm2_135m_lora --override seed=1 -o run.yaml
  tune lora_finetune --config run.yaml
"""


def main(argv: Sequence[str]) -> int:
    """Export a config."""
    call = read_call(argv, switches=("--resolved",), valued=("-o", "--output"))
    return help_or(call, HELP, lambda: export(call))


def export(call: Call) -> int:
    """Write a config that is free of mistakes."""
    recipe, layers = layers_of(call)
    print_notes(layers)
    layers.build(f"the config of {recipe.name}")
    if "--resolved" in call.flags:
        layers.tree = layers.resolve()
    text = recipe.export(layers)
    target = call.flags.get("-o") or call.flags.get("--output")
    if not target:
        sys.stdout.write(text)
        return 0
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"tune export: {target}: {error.strerror}\n")
        return 2
    sys.stdout.write(f"wrote {target}\n")
    return 0
