"""`tune import`: turn a YAML of the original torchtune into a config of ours."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune import runs
from torchtune.cli._verb import FORCE, MANY, Argument, Form, Verb
from torchtune.config import ConfigError, model
from torchtune.runs.command_line import ALLOW, Call, Option
from torchtune.runs.console import painted_mistakes, print_note

if TYPE_CHECKING:
    from torchtune.migrate import Import

OUTPUT = Option("-o, --output", "the file to write", "NEW.yaml", required=True)


def run(call: Call) -> int:
    """Write the imported config, and say what it lacks."""
    from torchtune.migrate import Import, read_original

    source, *words = call.arguments
    target = call.value(OUTPUT) or ""
    if not target.endswith((".yaml", ".yml")):
        raise ConfigError.of_word(target, "a config is YAML", "end the path in .yaml")
    if Path(target).exists() and not call.has(FORCE):
        raise ConfigError.of_word(target, "exists", "choose another path, or --force")
    old = read_original(source, words)
    text = Path(source).read_text(encoding="utf-8-sig")
    done = Import(old, model.is_component_path)
    done.run(sharded="_distributed" in text and "single_device" not in Path(source).name)
    ordered = in_order(done)
    Path(target).write_text(head(source, done) + model.render_yaml(ordered), encoding="utf-8")
    layers = runs.load_recipe(done.recipe).layers(target)
    left = None
    try:
        layers.build(f"what is left to do in {target}")
    except ConfigError as error:
        left = error
    hint = f"; run: tune {done.recipe} --config {target}" if left is None else f", a config of {done.recipe}"
    sys.stdout.write(f"wrote {target}{hint}\n")
    for path, why in done.changed.items():
        print_note(f"{path}: {why}", "means something else:")
    for path, why in done.lost.items():
        print_note(f"{path}: {why}", "no counterpart:")
    if left is not None:
        sys.stderr.write(f"{painted_mistakes(left, sys.stderr)}\n")
    return 0


def in_order(done: "Import") -> dict[str, Any]:
    """Return the new config with its fields in the order of the recipe's."""
    config_class = runs.load_recipe(done.recipe).config_class
    assert config_class is not None
    return {name: done.new[name] for name in model.field_names(config_class) if name in done.new}


def head(file: str, done: "Import") -> str:
    """Return the comments above an imported config."""
    lines = [f"Imported from {Path(file).name}.", f"recipe: {done.recipe}"]
    lines += [f"Means something else: {path}: {why}" for path, why in done.changed.items()]
    lines += [f"No counterpart: {path}: {why}" for path, why in done.lost.items()]
    return "".join(f"# {line}\n" for line in lines)


VERB = Verb(
    "import",
    run,
    forms=(
        Form((Argument("OLD.yaml"), Argument("[key=value ...]", least=0, most=MANY)), (OUTPUT, FORCE, ALLOW)),
    ),
    takes="the original's YAML and -o NEW.yaml",
    about="""\
Turns a YAML that was written for the original torchtune (0.1 to 0.6) into a
config of ours, where the parts exist, and lists what has no counterpart, with
the reason. Overrides are those of the original, applied to its YAML first. Of a
YAML of axolotl, LLaMA-Factory or TRL it says what to write for each key.""",
    examples=(
        "tune import 7B_lora.yaml -o my_run.yaml",
        "tune import 7B_lora.yaml checkpointer.checkpoint_dir=models/llama -o my_run.yaml",
    ),
)
