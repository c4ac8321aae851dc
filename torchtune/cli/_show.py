"""`tune show`: print a resolved config, with --origins where each value came from."""

import math
import re
import sys
from typing import Any

from torchtune import runs
from torchtune.cli._verb import CONFIG_OPTIONS, JSON, RECIPE, Form, Verb, write_json
from torchtune.config import model
from torchtune.config.model import dotted, leaves
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import is_coloured, paint

ORIGINS = Option("--origins")


def run(call: Call) -> int:
    """Print a config that is free of mistakes."""
    _, layers, _ = runs.checked_layers(call)
    tree = layers.resolve()
    if call.has(JSON):
        write_json(_finite(with_origins_as_rows(layers) if call.has(ORIGINS) else tree))
    elif call.has(ORIGINS):
        sys.stdout.write(painted_yaml(with_origins(layers)))
    else:
        sys.stdout.write(painted_yaml(model.render_yaml(tree)))
    return 0


def with_origins_as_rows(layers: "model.Layers") -> list[dict[str, object]]:
    """Return every leaf with its origin, for a script."""
    return [
        {"path": dotted(path), "value": value, "origin": _origin(layers, path, value)}
        for path, value in leaves(layers.resolve())
    ]


def _origin(layers: "model.Layers", path: tuple[str | int, ...], value: object) -> str:
    """Return where a leaf was written; a list's is where it was last changed."""
    return str(layers.last_origin(path) if isinstance(value, list) else layers.origin(path))


def _finite(tree: Any) -> Any:
    """Return a tree that JSON can hold: infinity and NaN as YAML writes them, in text."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return model.inline_yaml(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def with_origins(layers: "model.Layers") -> str:
    """Return a line for every leaf: its path and value, and where it was written."""
    rows = [
        (dotted(path), model.inline_yaml(value), _origin(layers, path, value))
        for path, value in leaves(layers.resolve())
    ]
    left = max(len(f"{path}: {value}") for path, value, _ in rows)
    width = min(left, 80) + 2
    return "".join(f"{f'{path}: {value}':{width}}# {origin}".rstrip() + "\n" for path, value, origin in rows)


def painted_yaml(text: str) -> str:
    """Return YAML with its keys and comments set apart, for standard output."""
    if not is_coloured(sys.stdout):
        return text
    keyed = re.sub(r"(?m)^([ -]*)([\w.-]+:)", lambda m: m[1] + paint(m[2], "cyan"), text)
    return re.sub(r"(?m)(^| {2})(# .*)$", lambda m: m[1] + paint(m[2], "dim"), keyed)


VERB = Verb(
    "show",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, ORIGINS, JSON)),),
    takes_overrides=True,
    about="Prints the resolved config.",
    examples=("tune show lora_finetune --config smollm2_135m_lora --origins",),
)
