"""`tune show`: print a resolved config, optionally with the origin of each value."""

import math
import re
import sys
from collections.abc import Iterator
from typing import Any

from torchtune import runs
from torchtune.cli._command import CONFIG_OPTIONS, JSON, RECIPE, Command, Form, write_json
from torchtune.config import model
from torchtune.config.model import dotted, leaves
from torchtune.runs.command_line import Call, Option
from torchtune.runs.console import is_coloured, paint

ORIGINS = Option("--origins", "also show where each value was set")


def run(call: Call) -> int:
    """Check a config and print it."""
    _, layers, _ = runs.checked_layers(call)
    tree = layers.resolve()
    if call.has(JSON):
        write_json(_json_compatible(with_origins(layers) if call.has(ORIGINS) else tree))
    elif call.has(ORIGINS):
        sys.stdout.write(painted_yaml("".join(_lines(with_origins(layers)))))
    else:
        sys.stdout.write(painted_yaml(model.render_yaml(tree)))
    return 0


def with_origins(layers: "model.Layers") -> list[dict[str, Any]]:
    """Return every leaf with the location where it was set or, for a list, last changed."""
    rows = []
    for path, value in leaves(layers.resolve()):
        origin = layers.last_origin(path) if isinstance(value, list) else layers.origin(path)
        rows.append({"path": dotted(path), "value": value, "origin": str(origin)})
    return rows


def _json_compatible(tree: Any) -> Any:
    """Return a tree that JSON can represent: infinity and NaN become text, as in YAML."""
    if isinstance(tree, dict):
        return {key: _json_compatible(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_json_compatible(value) for value in tree]
    return model.inline_yaml(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for every leaf: its path, its value and the location where it was set."""
    texts = [f"{row['path']}: {model.inline_yaml(row['value'])}" for row in rows]
    width = min(max(map(len, texts)), 80) + 2
    for text, row in zip(texts, rows, strict=True):
        yield f"{text:{width}}# {row['origin']}".rstrip() + "\n"


def painted_yaml(text: str) -> str:
    """Return YAML with coloured keys and comments if standard output supports colour."""
    if not is_coloured(sys.stdout):
        return text
    keyed = re.sub(r"(?m)^([ -]*)([\w.-]+:)", lambda m: m[1] + paint(m[2], "cyan"), text)
    return re.sub(r"(?m)(^| {2})(# .*)$", lambda m: m[1] + paint(m[2], "dim"), keyed)


COMMAND = Command(
    "show",
    run,
    forms=(Form((RECIPE,), (*CONFIG_OPTIONS, ORIGINS, JSON)),),
    description="Prints a config with all overrides applied and all ${...} references resolved.",
    examples=("tune show lora_finetune --config smollm2_135m_lora --origins",),
)
