"""A model's adapters: added to its layers, collected, left out, and merged into the weights."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from torchtune.modules._adapter import Adaptable, Adapter
from torchtune.modules._adapter_kinds import ADAPTERS, EMBEDDING_ADAPTERS, AdapterKind
from torchtune.modules._linear import Embedding, Linear

ALL_LINEAR = "all-linear"
"""As a target of `add_lora`: every linear layer but the output head."""

_TABLE, _HEAD = "embed_tokens", "lm_head"


def add_lora(
    model: nn.Module,
    targets: str | Sequence[str],
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    *,
    kind: AdapterKind = "lora",
    rank_stabilized: bool = False,
    modules_to_save: Sequence[str] = (),
) -> None:
    """Adapt layers of a model in place, and freeze everything but the adapters and the modules to save.

    Args:
        model: Any model with `nn.Linear` layers and no adapters yet; other linear layers than ours are replaced by
            `Linear` with the same parameters.
        targets: Names of layers: the last part ("q_proj") or more of the end ("self_attn.q_proj",
            "layers.3.self_attn.q_proj"), with `*`, `?` and `[...]` as in names of files ("layers.[0-9].*.q_proj").
            "all-linear" is every linear layer but the output head. The embedding table is "embed_tokens"; an output
            head that is tied to it changes with it.
        rank: Rank of the change, above 0.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the adapters' inputs that are zeroed while training, from 0 to below 1.
        kind: A key of `ADAPTERS`.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead.
        modules_to_save: Names or patterns of modules, as in `targets`, that are trained in full, and saved with the
            adapters (PEFT's word for them).

    Raises:
        ValueError: A target or a module to save matches nothing, a layer is both, the kind does not adapt embeddings
            or the output head, the model has adapters already, or a number is out of its range.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA needs rank > 0 and 0 <= dropout < 1, got rank {rank}, dropout {dropout}")
    if has_adapters(model):
        raise ValueError("the model has LoRA adapters already; merge them first (merge_lora)")
    names = _find_targets(model, [targets] if isinstance(targets, str) else targets)
    if kind not in EMBEDDING_ADAPTERS and {_TABLE, _HEAD} & {name.rpartition(".")[2] for name in names}:
        raise ValueError(
            f"{kind} does not adapt {_TABLE} or {_HEAD}; choose kind {' or '.join(EMBEDDING_ADAPTERS)}, or train them"
            " in full (modules_to_save)"
        )
    trained = _find_modules(model, modules_to_save, names)
    model.requires_grad_(requires_grad=False)
    for name in names:
        add_adapter(model, name, kind, rank, alpha, dropout, rank_stabilized=rank_stabilized)
    for module in trained:
        module.requires_grad_()


def add_adapter(
    model: nn.Module,
    name: str,
    kind: AdapterKind,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    *,
    rank_stabilized: bool = False,
) -> Adapter:
    """Adapt one layer of a model, and freeze it; an `nn.Linear` that cannot hold an adapter is replaced by a `Linear`.

    Args:
        model: The model.
        name: The layer's full name.
        kind: As for `add_lora`, like the rest.
        rank: Rank of the change.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the adapter's inputs that are zeroed while training.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead.
    """
    layer = model.get_submodule(name)
    if not isinstance(layer, Adaptable):
        assert isinstance(layer, nn.Linear)
        layer = Linear.from_linear(layer)
        model.set_submodule(name, layer)
    kinds = EMBEDDING_ADAPTERS if isinstance(layer, Embedding) else ADAPTERS
    layer.adapter = kinds[kind](layer, rank, alpha, dropout, rank_stabilized=rank_stabilized)
    return layer.adapter


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Adaptable, Adapter]]:
    """Go through the adapted layers of a model: their names, themselves, their adapters."""
    for name, module in model.named_modules():
        if isinstance(module, Adaptable) and module.adapter is not None:
            yield name, module, module.adapter


def has_adapters(model: nn.Module) -> bool:
    """Tell whether a model has adapters."""
    return next(adapted_layers(model), None) is not None


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Collect the adapters' parameters (not copies), and those of modules to save, by their names in the state dict."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if ".adapter." in name or parameter.requires_grad
    }


def saved_in_full(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model with adapters that are trained in full (`modules_to_save`), by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad and ".adapter." not in n}


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[None]:
    """Leave a model's adapters out, so that it computes what the model they were added to does, to the bit.

    That is the reference model of preference tuning. Uses may be nested. Compiled layers are compiled once more, for
    the other case. Layers with activation checkpointing are computed again in the backward pass, which therefore has to
    run inside too; without gradients there is no such pass.

    Raises:
        ValueError: Modules are trained in full (`modules_to_save`), of which nothing tells what they were.
    """
    in_full = next(iter(saved_in_full(model)), None)
    if in_full is not None and has_adapters(model):
        raise ValueError(
            f"{in_full} is trained in full, so that the model without its adapters is not the one that they were added"
            " to; adapt it instead (lora.targets), or load the base as a second model"
        )
    before = [(adapter, adapter.is_enabled) for _, _, adapter in adapted_layers(model)]
    try:
        for adapter, _ in before:
            adapter.is_enabled = False
        yield
    finally:
        for adapter, is_enabled in before:
            adapter.is_enabled = is_enabled


def merge_lora(model: nn.Module) -> None:
    """Put every adapter into its layer's weight, and plain layers without adapters in their place.

    The merged weight is rounded to the dtype that the layer computes in: exact in float32 up to rounding, and to 8
    bits in bfloat16. All weights are frozen.
    """
    for name, layer, adapter in list(adapted_layers(model)):
        weight = layer.weight_matrix()
        n_in, n_out = layer.adapter_sizes
        is_table = isinstance(layer, Embedding)
        plain = Embedding(n_in, n_out, device="meta") if is_table else Linear(n_in, n_out, device="meta")
        plain.weight = nn.Parameter(adapter.merge(weight).to(weight.dtype), requires_grad=False)
        if isinstance(layer, Linear):
            plain.bias = layer.bias
        model.set_submodule(name, plain)
    model.requires_grad_(requires_grad=False)


def _find_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Turn targets into full names of layers, in the model's order."""
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, Embedding) and _leaf(name) == _TABLE)
    ]
    body = [name for name in layers if _leaf(name) not in (_TABLE, _HEAD)]
    matches = {target: _matching(layers, target) for target in targets}
    if ALL_LINEAR in matches:
        matches[ALL_LINEAR] = body
    missing = [target for target in targets if not matches[target]]
    if missing == [_HEAD]:
        raise ValueError(_tied(model))
    if missing or not matches:
        leaves = sorted({_leaf(name) for name in body})
        raise ValueError(
            f"no linear layer of the model is called {' or '.join(missing) or '(nothing was asked for)'};"
            f" it has {', '.join(leaves)}; {ALL_LINEAR!r} means all of them"
        )
    chosen = {name for names in matches.values() for name in names}
    return [name for name in layers if name in chosen]


def _find_modules(model: nn.Module, names: Sequence[str], adapted: Sequence[str]) -> list[nn.Module]:
    """Find the modules to save, which hold none of the adapted layers."""
    # Those that have parameters, of their own or in their parts.
    modules = {n: m for n, m in model.named_modules() if n and next(m.parameters(), None) is not None}
    matches = {name: _matching(modules, name) for name in names}
    missing = [name for name in names if not matches[name]]
    if missing == [_HEAD]:
        raise ValueError(_tied(model))
    if missing:
        leaves = sorted({_leaf(name) for name in modules if not _leaf(name).isdigit()})
        raise ValueError(
            f"no module of the model is called {' or '.join(missing)} (modules_to_save); it has {', '.join(leaves)}"
        )
    chosen = dict.fromkeys(match for matching in matches.values() for match in matching)
    both = next((layer for layer in adapted if any(f"{layer}.".startswith(f"{n}.") for n in chosen)), None)
    if both is not None:
        raise ValueError(
            f"{both} would have an adapter (targets) and be trained in full (modules_to_save); name it in one of them"
        )
    return [modules[name] for name in chosen]


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that end with a pattern, as whole parts."""
    return [name for name in names if fnmatchcase(f".{name}", f"*.{pattern}")]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _tied(model: nn.Module) -> str:
    """Explain that a model has no output head of its own."""
    has_table = any(_leaf(name) == _TABLE for name, _ in model.named_modules())
    reason = f"its output head is its embedding table; name {_TABLE}, which changes both" if has_table else ""
    return f"the model has no {_HEAD}{f': {reason}' * bool(reason)}"
