"""A model's adapters: put beside its linear layers, collected, and merged into them."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from torchtune.modules._dora import DoRALinear
from torchtune.modules._linear import Linear
from torchtune.modules._lora import LoRALinear

ALL_LINEAR = "all-linear"
"""As a target of `add_lora`: every linear layer but the output head."""

_HEAD = "lm_head"


def add_lora(
    model: nn.Module,
    targets: str | Sequence[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    *,
    rank_stabilized: bool = False,
    dora: bool = False,
) -> None:
    """Adapt linear layers of a model in place, and freeze everything but the adapters.

    Args:
        model: Any model with `nn.Linear` layers and no adapters yet.
        targets: Names of layers: the last part ("q_proj") or more of the end ("self_attn.q_proj",
            "layers.3.self_attn.q_proj"). "all-linear" is every linear layer but the output head.
        rank: Rank of the change, above 0.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the adapters' inputs that are zeroed while training, from 0 to below 1.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead.
        dora: Train the length of each row of a weight apart from its direction (`DoRALinear`).

    Raises:
        ValueError: a target matches nothing or is the output head, the model has adapters already, or a
            number is out of its range.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA needs rank > 0 and 0 <= dropout < 1, got rank {rank}, dropout {dropout}")
    if next(lora_layers(model), None) is not None:
        raise ValueError("the model has LoRA adapters already; merge them first (merge_lora)")
    names = _find_targets(model, [targets] if isinstance(targets, str) else targets)
    model.requires_grad_(requires_grad=False)
    kind = DoRALinear if dora else LoRALinear
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(name, kind(linear, rank, alpha, dropout, rank_stabilized=rank_stabilized))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Go through the adapted layers of a model with their names."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear))


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Collect the adapters' parameters (not copies) by their names in the model's state dict."""
    return {
        f"{name}.{part}": parameter.detach()
        for name, layer in lora_layers(model)
        for part, parameter in layer.adapter().items()
    }


def merge_lora(model: nn.Module) -> None:
    """Add every adapter to the weight beside it and put plain linear layers back, in place.

    The sum is rounded to the weight's dtype: exact in float32 up to rounding, and to 8 bits in
    bfloat16. The weights stay frozen.
    """
    for name, layer in list(lora_layers(model)):
        linear = Linear(layer.in_features, layer.out_features, device="meta")
        linear.weight = nn.Parameter(layer.merged_weight(), requires_grad=False)
        linear.bias = layer.bias
        model.set_submodule(name, linear)


def _find_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Turn targets into full names of linear layers, in the model's order."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    body = [name for name in linears if name.rpartition(".")[2] != _HEAD]
    found = {target: [name for name in linears if f".{name}".endswith(f".{target}")] for target in targets}
    if ALL_LINEAR in found:
        found[ALL_LINEAR] = body
    missing = [target for target in targets if not found[target]]
    if missing or not found:
        leaves = sorted({name.rpartition(".")[2] for name in body})
        raise ValueError(
            f"no linear layer of the model is called {' or '.join(missing) or '(nothing was asked for)'};"
            f" it has {', '.join(leaves)}; {ALL_LINEAR!r} means all of them"
        )
    chosen = {name for names in found.values() for name in names}
    if not chosen <= set(body):
        raise ValueError(f"{_HEAD} cannot have an adapter: losses read the output head's weight directly")
    return [name for name in body if name in chosen]
