"""`tune export`: write the frozen YAML of a run."""

import sys
from pathlib import Path

from torchtune import config
from torchtune.cli._verb import CONFIG_OPTIONS, OUTPUT, RECIPE, Form, Verb
from torchtune.config import Call, Option

RESOLVED = Option(("--resolved",))


def run(call: Call) -> int:
    """Write a config that is free of mistakes."""
    recipe, layers = config.layers_of(call)
    config.print_notes(layers)
    layers.build(f"the config of {recipe.name}")
    if call.has(RESOLVED):
        layers.tree = layers.resolve()
    text = recipe.export(layers)
    target = call.value(OUTPUT)
    if target is None:
        sys.stdout.write(text)
        return 0
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"tune export: {target}: {error.strerror}\n")
        return 2
    sys.stdout.write(f"wrote {target}\n")
    return 0


VERB = Verb(
    "export",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, OUTPUT, RESOLVED)),),
    takes_overrides=True,
    about="""\
Writes the frozen YAML: complete and self-contained, the defaults of every
argument spelt out. References stay references; --resolved expands them.""",
    examples=(
        "tune export lora_finetune --config smollm2_135m_lora --override seed=1 -o run.yaml",
        "tune lora_finetune --config run.yaml",
    ),
)
