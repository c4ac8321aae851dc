"""Kinds of adapters, and random weights for them."""

from typing import Any

import torch
from torch import nn

from torchtune.modules import ADAPTERS, AdapterKind, Linear, lora_state

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rank_stabilized": True},
    "dora": {"kind": "dora"},
    "rslora and dora": {"rank_stabilized": True, "kind": "dora"},
}
"""Arguments of `add_lora` for each kind."""


def adapt_linear(linear: nn.Linear, kind: AdapterKind = "lora", **settings: Any) -> Any:
    """Return a linear layer with an adapter; the type is Any, because its attributes would be typed as modules."""
    layer = Linear.from_linear(linear)
    layer.adapter = ADAPTERS[kind](layer, **settings)
    return layer


def randomize_adapters(model: nn.Module, std: float = 0.3) -> None:
    """Set a model's adapters to random weights, and DoRA magnitudes to within 30% of the weight norms."""
    for name, parameter in lora_state(model).items():
        if name.endswith("lora_magnitude"):
            parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3))
        else:
            parameter.normal_(std=std)
