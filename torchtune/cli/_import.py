"""`tune import`: convert a YAML config of the original torchtune."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune import runs
from torchtune.cli._command import FORCE, MANY, Argument, Command, Form
from torchtune.config import ConfigError, model
from torchtune.runs.command_line import ALLOW, Call, Option
from torchtune.runs.console import painted_mistakes, print_note

if TYPE_CHECKING:
    from torchtune.migrate import Import

OUTPUT = Option("-o, --output", "the file to write", "NEW.yaml", required=True)


def run(call: Call) -> int:
    """Write the imported config, and report the fields that could not be imported."""
    from torchtune.migrate import Import, read_original

    source, *overrides = call.arguments
    target = call.value(OUTPUT) or ""
    if not target.endswith((".yaml", ".yml")):
        raise ConfigError.of_argument(target, "the output is a YAML file", "the path must end in .yaml")
    if Path(target).exists() and not call.has(FORCE):
        raise ConfigError.of_argument(
            target, "the file already exists", "choose a different path, or pass --force"
        )
    old = read_original(source, overrides)
    text = Path(source).read_text(encoding="utf-8-sig")
    imported = Import(old, model.is_component_path)
    imported.run(sharded="_distributed" in text and "single_device" not in Path(source).name)
    ordered = ordered_config(imported)
    Path(target).write_text(header(source, imported) + model.render_yaml(ordered), encoding="utf-8")
    layers = runs.load_recipe(imported.recipe).layers(target)
    remaining = None
    try:
        layers.build(f"{target}, to be fixed by hand")
    except ConfigError as error:
        remaining = error
    recipe = imported.recipe
    hint = f", a config of {recipe}" if remaining else f"; run: tune {recipe} --config {target}"
    sys.stdout.write(f"wrote {target}{hint}\n")
    for path, reason in imported.changed.items():
        print_note(f"{path}: {reason}", "changed:")
    for path, reason in imported.unmapped.items():
        print_note(f"{path}: {reason}", "not converted:")
    if remaining is not None:
        sys.stderr.write(f"{painted_mistakes(remaining, sys.stderr)}\n")
    return 0


def ordered_config(imported: "Import") -> dict[str, Any]:
    """Return the new config with its fields in the order of the recipe's config class."""
    config_class = runs.load_recipe(imported.recipe).config_class
    assert config_class is not None
    return {name: imported.new[name] for name in model.field_names(config_class) if name in imported.new}


def header(file: str, imported: "Import") -> str:
    """Return the comments at the top of an imported config."""
    lines = [f"Imported from {Path(file).name}.", f"recipe: {imported.recipe}"]
    lines += [f"Changed: {path}: {reason}" for path, reason in imported.changed.items()]
    lines += [f"Not converted: {path}: {reason}" for path, reason in imported.unmapped.items()]
    return "".join(f"# {line}\n" for line in lines)


COMMAND = Command(
    "import",
    run,
    forms=(
        Form(
            (Argument("OLD.yaml"), Argument("[key=value ...]", min_count=0, max_count=MANY)),
            (OUTPUT, FORCE, ALLOW),
        ),
    ),
    expects="a YAML file of the original torchtune and -o NEW.yaml",
    description="""\
Converts a YAML config of the original torchtune (0.1 to 0.6) to a torchtune
config, and lists the fields that have no equivalent, with the reason. Overrides
use the field names of the original torchtune and are applied before the
conversion. For an axolotl, LLaMA-Factory or TRL config, prints the equivalent
of each key.""",
    examples=(
        "tune import 7B_lora.yaml -o my_run.yaml",
        "tune import 7B_lora.yaml checkpointer.checkpoint_dir=models/llama -o my_run.yaml",
    ),
)
