"""`tune export`: write a config as one complete YAML file."""

from torchtune import runs
from torchtune.cli._command import CONFIG_OPTIONS, OUTPUT, RECIPE, Command, Form, write_output
from torchtune.runs.command_line import Call, Option

RESOLVED = Option("--resolved", "replace ${...} references with their values")


def run(call: Call) -> int:
    """Check a config and write it."""
    recipe, layers, _ = runs.checked_layers(call)
    if call.has(RESOLVED):
        layers.tree = layers.resolve()
    return write_output(call, recipe.export(layers))


COMMAND = Command(
    "export",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, OUTPUT, RESOLVED)),),
    description="""\
Writes a config as frozen YAML: complete and self-contained, with the default of
every argument spelled out. References such as ${seed} are kept, unless you pass
--resolved.""",
    examples=(
        "tune export lora_finetune --config smollm2_135m_lora --override seed=1 -o run.yaml",
        "tune lora_finetune --config run.yaml",
    ),
)
