"""`tune validate`: every mistake in a config, or what its model is and needs; no GPU, no weights, no probing."""

import sys
from collections.abc import Sequence
from typing import Any

from torchtune.cli._call import Call, help_or, layers_of, print_notes, read_call
from torchtune.config import (
    ConfigError,
    InstantiationError,
    Layers,
    Mistake,
    config_names,
    instantiate,
    is_component,
)

HELP = """\
usage: tune validate <recipe> --config <name or path> [--override key=value ...]
       tune validate --all

Finds every mistake in a config without building anything, or says `ok` and what the model is and needs.
"""


def main(argv: Sequence[str]) -> int:
    """Validate one config or all."""
    call = read_call(argv, switches=("--all",))
    if "--all" in call.flags and (call.recipe or call.config or call.words):
        raise ConfigError([Mistake("--all", "", "validates every registered config; name none beside it")])
    return help_or(call, HELP, lambda: validate_all() if "--all" in call.flags else validate(call))


def validate_all() -> int:
    """Validate every registered config, saying all that is wrong."""
    failed = 0
    for recipe, configs in config_names().items():
        for config in configs:
            try:
                line = summary(Call(recipe, config))
            except ConfigError as error:
                failed += 1
                sys.stderr.write(f"{recipe} --config {config}: {error}\n")
            else:
                sys.stdout.write(f"{recipe} --config {config}: {line}\n")
    return 2 if failed else 0


def validate(call: Call) -> int:
    """Validate one config."""
    sys.stdout.write(f"{summary(call)}\n")
    return 0


def summary(call: Call) -> str:
    """Return `ok`, with a line on the model.

    Raises:
        ConfigError: With every mistake.
    """
    recipe, layers = layers_of(call)
    print_notes(layers)
    of = f"the config of {recipe.name}"
    cfg = layers.build(of)
    try:
        return f"ok{_needs(cfg)}"
    except InstantiationError as error:
        raise _mistake(layers, "model", error, of) from error
    except ValueError as error:  # the adapters do not fit the model
        raise _mistake(layers, "lora", error, of) from error


def _mistake(layers: Layers, field: str, error: Exception, of: str) -> ConfigError:
    return ConfigError([Mistake(layers.last_origin((field,)).text, field, str(error))], of)


def _needs(cfg: Any) -> str:
    """Say how many parameters a config's model has, and what its weights take, from meta tensors.

    Raises:
        InstantiationError: The model's own code refuses its arguments.
        ValueError: The model has no such layers as the adapters are for.
    """
    component = getattr(cfg, "model", None)
    if not is_component(component):
        return ""
    import torch

    with torch.device("meta"):
        model = instantiate(component)
    if not isinstance(model, torch.nn.Module):
        return ""
    total = sum(p.numel() for p in model.parameters())
    if callable(add_to := getattr(getattr(cfg, "lora", None), "add_to", None)):
        add_to(model)
    dtype = getattr(cfg, "dtype", None)
    widths = {"fp32": 4, "bf16": 2, "fp16": 2}
    dtype = dtype if isinstance(dtype, str) and dtype in widths else "fp32"
    return f": {total:,} parameters, {total * widths[dtype] / 2**30:.2f} GiB of weights in {dtype}"
