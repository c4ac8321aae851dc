"""`tune import`: a config of ours from a YAML of the original torchtune."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchtune.cli._ancestor import Import
from torchtune.cli._call import Call, help_or, load_recipe, read_call
from torchtune.cli._style import paint, painted_mistakes
from torchtune.config import (
    ConfigError,
    Document,
    Mistake,
    field_names,
    is_component_path,
    parse_yaml,
    read_yaml,
    render_yaml,
    resolved_tree,
)
from torchtune.migrate import explain_keys, other_method, project_of

HELP = """\
usage: tune import OLD.yaml [key=value ...] -o NEW.yaml

Turns a YAML that was written for the original torchtune (0.1 to 0.6) into a
config of ours, where the parts exist, and lists what has no counterpart, with
the reason. Overrides are those of the original, applied to its YAML first. Of a
YAML of axolotl, LLaMA-Factory or TRL it says what to write for each key.

  tune import 7B_lora.yaml -o my_run.yaml
  tune import 7B_lora.yaml checkpointer.checkpoint_dir=models/llama -o my_run.yaml
"""

STAYS = re.compile(r"\$\{(?:output_dir|seed|batch_size|epochs)\}")
"""References to fields that do not move; others are replaced by what they lead to."""


def main(argv: Sequence[str]) -> int:
    """Import a config."""
    call = read_call(argv, switches=("--force",), valued=("-o", "--output"))
    return help_or(call, HELP, lambda: import_file(call))


def import_file(call: Call) -> int:
    """Write the imported config, and say what it lacks."""
    target = call.flags.get("-o") or call.flags.get("--output")
    if not call.recipe or not target or call.mistakes:
        message = "tune import takes the original's YAML and -o NEW.yaml"
        raise ConfigError([*call.mistakes, Mistake("", "", message)], "the command line")
    if not target.endswith((".yaml", ".yml")):
        raise ConfigError(
            [Mistake(target, "", "a config is YAML; end the path in .yaml")], "the command line"
        )
    if Path(target).exists() and "--force" not in call.flags:
        raise ConfigError(
            [Mistake(target, "", "exists; choose another path, or --force")], "the command line"
        )
    old = old_tree(call.recipe, call.words)
    text = Path(call.recipe).read_text(encoding="utf-8-sig")
    done = Import(old, is_component_path)
    done.run(sharded="_distributed" in text and "single_device" not in Path(call.recipe).name)
    ordered = in_order(done)
    Path(target).write_text(head(call.recipe, done) + render_yaml(ordered), encoding="utf-8")
    layers = load_recipe(done.recipe).layers(target)
    left = None
    try:
        layers.build(f"what is left to do in {target}")
    except ConfigError as error:
        left = error
    run = f"; run: tune {done.recipe} --config {target}" if left is None else f", a config of {done.recipe}"
    sys.stdout.write(f"wrote {target}{run}\n")
    for path, why in done.changed.items():
        sys.stderr.write(f"{paint('means something else:', 'yellow', stream=sys.stderr)} {path}: {why}\n")
    for path, why in done.lost.items():
        sys.stderr.write(f"{paint('no counterpart:', 'yellow', stream=sys.stderr)} {path}: {why}\n")
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
    project = project_of(tree) if isinstance(tree, dict) else None
    if project is not None:
        raise ConfigError(_answers(document, project), file)
    if isinstance(tree, dict) and "model_directory" in tree:
        raise ConfigError([Mistake(file, "", "is a config of ours already: it has a model_directory")], file)
    if not isinstance(tree, dict) or not {"model", "checkpointer"} & tree.keys():
        message = "is no config of the original torchtune: it has neither a model nor a checkpointer"
        raise ConfigError([Mistake(file, "", message)], file)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError([Mistake(word, "", "expected key=value")], "the command line")
        *above, last = key.split(".")
        holder: dict[str, Any] = tree
        for part in above:
            below = holder.get(part)
            holder[part] = holder = below if isinstance(below, dict) else {}
        holder[last] = parse_yaml(text, word).value
    other = other_method(tree)
    if other is not None:
        key, method = other
        line = document.lines.get((key,))
        why = (
            f"this is {method}, and our recipes do supervised fine-tuning and generation; nothing is imported"
        )
        raise ConfigError([Mistake(f"{file}:{line}" if line else file, key, why)], file)
    kept = _map_text(tree, lambda text: STAYS.sub(lambda m: f"$${m[0][1:]}", text))
    resolved: dict[str, Any] = _map_text(resolved_tree(kept), str)
    return resolved


def _answers(document: Document, project: str) -> list[Mistake]:
    """Say of each key of another project's YAML what to write here."""
    config_class = load_recipe("lora_finetune").config_class
    assert config_class is not None
    why = (
        f"is a config of {project}, which is not imported, since its keys do not say all that ours do;"
        " begin with a copy, tune cp smollm2_135m_lora my.yaml, and write in it:"
    )
    answers = explain_keys(document.value, field_names(config_class))
    return [
        Mistake(document.name, "", why),
        *(Mistake(f"{document.name}:{document.lines[key,]}", key, answer) for key, answer in answers),
    ]


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
