"""`tune export`: write the frozen YAML of a run."""

from torchtune import runs
from torchtune.cli._verb import CONFIG_OPTIONS, OUTPUT, RECIPE, Form, Verb, write_output
from torchtune.runs.command_line import Call, Option

RESOLVED = Option("--resolved")


def run(call: Call) -> int:
    """Write a config that is free of mistakes."""
    recipe, layers, _ = runs.checked_layers(call)
    if call.has(RESOLVED):
        layers.tree = layers.resolve()
    return write_output(call, recipe.export(layers))


VERB = Verb(
    "export",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, OUTPUT, RESOLVED)),),
    about="""\
Writes the frozen YAML: complete and self-contained, the defaults of every
argument spelt out. References stay references; --resolved expands them.""",
    examples=(
        "tune export lora_finetune --config smollm2_135m_lora --override seed=1 -o run.yaml",
        "tune lora_finetune --config run.yaml",
    ),
)
