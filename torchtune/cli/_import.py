"""`tune import`: turn a YAML of the original torchtune into a config of ours."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchtune.cli._verb import FORCE, MANY, Argument, Form, Verb
from torchtune.config import ConfigError, Mistake
from torchtune.config.model import (
    field_names,
    is_component_path,
    parse_yaml,
    read_yaml,
    render_yaml,
    resolved_tree,
)
from torchtune.migrate import Import
from torchtune.runs import load_recipe
from torchtune.runs.command_line import ALLOW, Call, Option
from torchtune.runs.console import painted_mistakes, print_note

OUTPUT = Option("-o, --output", "the file to write", "NEW.yaml", required=True)
STAYS = re.compile(r"\$\{(?:output_dir|seed|batch_size|epochs)\}")
"""References to fields that do not move; others are replaced by what they lead to."""


def run(call: Call) -> int:
    """Write the imported config, and say what it lacks."""
    source, *words = call.arguments
    target = call.value(OUTPUT) or ""
    if not target.endswith((".yaml", ".yml")):
        raise ConfigError.of_word(target, "a config is YAML", "end the path in .yaml")
    if Path(target).exists() and not call.has(FORCE):
        raise ConfigError.of_word(target, "exists", "choose another path, or --force")
    old = old_tree(source, words)
    text = Path(source).read_text(encoding="utf-8-sig")
    done = Import(old, is_component_path)
    done.run(sharded="_distributed" in text and "single_device" not in Path(source).name)
    ordered = in_order(done)
    Path(target).write_text(head(source, done) + render_yaml(ordered), encoding="utf-8")
    layers = load_recipe(done.recipe).layers(target)
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


def old_tree(file: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the original's config with overrides, its references resolved unless they lead to what stays.

    Raises:
        ConfigError: It cannot be read, or is no config of the original.
    """
    document = read_yaml(file)
    if document.mistakes:
        raise ConfigError(document.mistakes, file)
    tree = document.value
    if isinstance(tree, dict) and "model_directory" in tree:
        message = "is a config of ours already: it has a model_directory"
        raise ConfigError([Mistake.of_file(file, message)], file)
    if not isinstance(tree, dict) or not {"model", "checkpointer"} & tree.keys():
        message = "is no config of the original torchtune: it has neither a model nor a checkpointer"
        raise ConfigError([Mistake.of_file(file, message)], file)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError.of_word(word, "expected key=value")
        *above, last = key.split(".")
        holder: dict[str, Any] = tree
        for part in above:
            below = holder.get(part)
            holder[part] = holder = below if isinstance(below, dict) else {}
        holder[last] = parse_yaml(text, word).value
    kept = _map_text(tree, lambda text: STAYS.sub(lambda m: f"$${m[0][1:]}", text))
    resolved: dict[str, Any] = _map_text(resolved_tree(kept), str)
    return resolved


def _map_text(tree: Any, change: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _map_text(value, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map_text(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree


def in_order(done: Import) -> dict[str, Any]:
    """Return the new config with its fields in the order of the recipe's."""
    config_class = load_recipe(done.recipe).config_class
    assert config_class is not None
    return {name: done.new[name] for name in field_names(config_class) if name in done.new}


def head(file: str, done: Import) -> str:
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
the reason. Overrides are those of the original, applied to its YAML first.""",
    examples=(
        "tune import 7B_lora.yaml -o my_run.yaml",
        "tune import 7B_lora.yaml checkpointer.checkpoint_dir=models/llama -o my_run.yaml",
    ),
)
