"""The kinds of adapters, and weights for them that change something."""

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
"""What `add_lora` takes for each."""


def adapted(linear: nn.Linear, kind: AdapterKind = "lora", **settings: Any) -> Any:
    """Return a linear layer with an adapter of a kind; static checks would take all of its parts for modules."""
    layer = Linear.from_linear(linear)
    layer.adapter = ADAPTERS[kind](layer, **settings)
    return layer


def stir(model: nn.Module, std: float = 0.3) -> None:
    """Give the adapters of a model random weights, and magnitudes that are up to a third off their norms."""
    for name, parameter in lora_state(model).items():
        if name.endswith("lora_magnitude"):
            parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3))
        else:
            parameter.normal_(std=std)
