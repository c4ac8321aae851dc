"""A model's adapters: added to its linear layers, collected, left out, and merged into the weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from torchtune.modules._adapter import Adapter
from torchtune.modules._adapter_kinds import ADAPTERS, AdapterKind
from torchtune.modules._linear import Linear

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
    kind: AdapterKind = "lora",
    rank_stabilized: bool = False,
) -> None:
    """Adapt linear layers of a model in place, and freeze everything but the adapters.

    Args:
        model: Any model with `nn.Linear` layers and no adapters yet; other linear layers than ours are replaced by
            `Linear` with the same parameters.
        targets: Names of layers: the last part ("q_proj") or more of the end ("self_attn.q_proj",
            "layers.3.self_attn.q_proj"), with `*`, `?` and `[...]` as in names of files ("layers.[0-9].*.q_proj").
            "all-linear" is every linear layer but the output head.
        rank: Rank of the change, above 0.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the adapters' inputs that are zeroed while training, from 0 to below 1.
        kind: A key of `ADAPTERS`.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead.

    Raises:
        ValueError: a target matches nothing or is the output head, the model has adapters already, or a
            number is out of its range.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA needs rank > 0 and 0 <= dropout < 1, got rank {rank}, dropout {dropout}")
    if has_adapters(model):
        raise ValueError("the model has LoRA adapters already; merge them first (merge_lora)")
    names = _find_targets(model, [targets] if isinstance(targets, str) else targets)
    model.requires_grad_(requires_grad=False)
    for name in names:
        layer = adaptable(model, name)
        layer.adapter = ADAPTERS[kind](layer, rank, alpha, dropout, rank_stabilized=rank_stabilized)


def adaptable(model: nn.Module, name: str) -> Linear:
    """Return a linear layer of a model, which takes the place of an `nn.Linear` that cannot hold an adapter."""
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    if isinstance(linear, Linear):
        return linear
    layer = Linear.from_linear(linear)
    model.set_submodule(name, layer)
    return layer


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Linear, Adapter]]:
    """Go through the adapted layers of a model: their names, themselves, their adapters."""
    for name, module in model.named_modules():
        if isinstance(module, Linear) and module.adapter is not None:
            yield name, module, module.adapter


def has_adapters(model: nn.Module) -> bool:
    """Tell whether a model has adapters."""
    return next(adapted_layers(model), None) is not None


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Collect the adapters' parameters (not copies) by their names in the model's state dict."""
    return {
        f"{name}.adapter.{part}": parameter.detach()
        for name, _, adapter in adapted_layers(model)
        for part, parameter in adapter.named_parameters()
    }


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[None]:
    """Leave a model's adapters out, so that it computes what the model they were added to does, to the bit.

    That is the reference model of preference tuning. Uses may be nested. Compiled layers are compiled once more, for
    the other case. Layers with activation checkpointing are computed again in the backward pass, which therefore has to
    run inside too; without gradients there is no such pass.
    """
    before = [(adapter, adapter.is_enabled) for _, _, adapter in adapted_layers(model)]
    try:
        for adapter, _ in before:
            adapter.is_enabled = False
        yield
    finally:
        for adapter, is_enabled in before:
            adapter.is_enabled = is_enabled


def merge_lora(model: nn.Module) -> None:
    """Put every adapter into its layer's weight, and plain linear layers without adapters in their place.

    The merged weight is rounded to the dtype that the layer computes in: exact in float32 up to rounding, and to 8
    bits in bfloat16. The weights stay frozen.
    """
    for name, layer, adapter in list(adapted_layers(model)):
        weight = layer.weight_matrix()
        linear = Linear(layer.in_features, layer.out_features, device="meta")
        linear.weight = nn.Parameter(adapter.merge(weight).to(weight.dtype), requires_grad=False)
        linear.bias = layer.bias
        model.set_submodule(name, linear)


def _find_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Turn targets into full names of linear layers, in the model's order."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    body = [name for name in linears if name.rpartition(".")[2] != _HEAD]
    matches = {target: [n for n in linears if fnmatchcase(f".{n}", f"*.{target}")] for target in targets}
    if ALL_LINEAR in matches:
        matches[ALL_LINEAR] = body
    missing = [target for target in targets if not matches[target]]
    if missing or not matches:
        leaves = sorted({name.rpartition(".")[2] for name in body})
        raise ValueError(
            f"no linear layer of the model is called {' or '.join(missing) or '(nothing was asked for)'};"
            f" it has {', '.join(leaves)}; {ALL_LINEAR!r} means all of them"
        )
    chosen = {name for names in matches.values() for name in names}
    if not chosen <= set(body):
        raise ValueError(f"{_HEAD} cannot have an adapter: losses read the output head's weight directly")
    return [name for name in body if name in chosen]
