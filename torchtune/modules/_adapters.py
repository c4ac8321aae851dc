"""Adding, collecting, disabling and merging a model's adapters."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from torchtune.modules._adapter import Adaptable, Adapter
from torchtune.modules._adapter_kinds import ADAPTERS, EMBEDDING_ADAPTERS, AdapterKind
from torchtune.modules._linear import Embedding, Linear

ALL_LINEAR = "all-linear"
"""Target of `add_lora` that matches every linear layer except the output head."""

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
    """Add adapters to layers of a model in place, and freeze all parameters except the adapters and `modules_to_save`.

    Args:
        model: Any model with `nn.Linear` layers and without adapters; targeted `nn.Linear` layers are replaced by
            `Linear` with the same parameters.
        targets: Layer names: the last component ("q_proj") or a longer suffix ("self_attn.q_proj",
            "layers.3.self_attn.q_proj"), with the wildcards `*`, `?` and `[...]` ("layers.[0-9].*.q_proj").
            "all-linear" matches every linear layer except the output head. The embedding table is "embed_tokens"; a
            tied output head is adapted together with the table.
        rank: Rank of the updates, above 0.
        alpha: The updates are scaled by `alpha / rank`.
        dropout: Dropout probability of the adapters' inputs, at least 0 and below 1.
        kind: A key of `ADAPTERS`.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead.
        modules_to_save: Names or patterns, as in `targets`, of modules that are trained in full and saved with the
            adapters (PEFT's term).

    Raises:
        ValueError: A target or a module to save matches nothing, a layer matches both, the kind does not adapt
            embeddings or the output head, the model already has adapters, or a number is out of range.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA needs rank > 0 and 0 <= dropout < 1, got rank {rank} and dropout {dropout}")
    if has_adapters(model):
        raise ValueError("the model already has LoRA adapters; merge them first (merge_lora)")
    names = _find_targets(model, [targets] if isinstance(targets, str) else targets)
    if kind not in EMBEDDING_ADAPTERS and {_TABLE, _HEAD} & {name.rpartition(".")[2] for name in names}:
        raise ValueError(
            f"{kind} does not adapt {_TABLE} or {_HEAD}; use kind {' or '.join(EMBEDDING_ADAPTERS)}, or train them"
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
    """Add an adapter to one layer of a model, and freeze the layer; a plain `nn.Linear` is replaced by a `Linear`.

    Args:
        model: The model.
        name: The layer's full name.
        kind: A key of `ADAPTERS`.
        rank: Rank of the update.
        alpha: The update is scaled by `alpha / rank`.
        dropout: Dropout probability of the adapter's inputs.
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
    """Yield the name, the layer and the adapter of each adapted layer of a model."""
    for name, module in model.named_modules():
        if isinstance(module, Adaptable) and module.adapter is not None:
            yield name, module, module.adapter


def has_adapters(model: nn.Module) -> bool:
    """Return whether a model has adapters."""
    return next(adapted_layers(model), None) is not None


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters (not copies) of adapters and modules to save, by their names in the state dict."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if ".adapter." in name or parameter.requires_grad
    }


def fully_trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained parameters that do not belong to an adapter (`modules_to_save`), by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad and ".adapter." not in n}


@contextmanager
def adapters_disabled(model: nn.Module) -> Iterator[None]:
    """Disable a model's adapters, so that the model computes exactly the base model's results.

    Preference tuning obtains its reference model in this way. Contexts may be nested. Compiled layers are compiled a
    second time, without adapters. Unless gradients are disabled, the backward pass must also run inside this context,
    because activation checkpointing recomputes layers in it.

    Raises:
        ValueError: Modules are trained in full (`modules_to_save`); their original values are not kept.
    """
    trained_name = next(iter(fully_trained_parameters(model)), None)
    if trained_name is not None and has_adapters(model):
        raise ValueError(
            f"{trained_name} is trained in full, so disabling the adapters does not restore the base model; adapt it"
            " instead (lora.targets), or load the base model a second time"
        )
    states = [(adapter, adapter.is_enabled) for _, _, adapter in adapted_layers(model)]
    try:
        for adapter, _ in states:
            adapter.is_enabled = False
        yield
    finally:
        for adapter, is_enabled in states:
            adapter.is_enabled = is_enabled


def merge_lora(model: nn.Module) -> None:
    """Merge every adapter into its layer's weight, and replace the layer with one without an adapter.

    The merged weight is rounded to the layer's compute dtype; bfloat16 has 8 significant bits. All parameters of the
    model are frozen afterwards.
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
    """Return the full names of the layers that match the targets, in the model's order."""
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, Embedding) and _leaf(name) == _TABLE)
    ]
    linear_layers = [name for name in layers if _leaf(name) not in (_TABLE, _HEAD)]
    matches = {target: _matching(layers, target) for target in targets}
    if ALL_LINEAR in matches:
        matches[ALL_LINEAR] = linear_layers
    missing = [target for target in targets if not matches[target]]
    if missing == [_HEAD]:
        raise ValueError(_no_head_message(model))
    if missing or not matches:
        leaves = sorted({_leaf(name) for name in linear_layers})
        raise ValueError(
            f"no linear layer of the model matches {' or '.join(missing) or '(no targets)'};"
            f" expected {', '.join(leaves)}, or {ALL_LINEAR!r} for all of them"
        )
    matched = {name for names in matches.values() for name in names}
    return [name for name in layers if name in matched]


def _find_modules(model: nn.Module, names: Sequence[str], adapted: Sequence[str]) -> list[nn.Module]:
    """Return the modules to save; none may contain an adapted layer."""
    # Only modules that contain parameters, directly or in submodules, can be trained.
    modules = {n: m for n, m in model.named_modules() if n and next(m.parameters(), None) is not None}
    matches = {name: _matching(modules, name) for name in names}
    missing = [name for name in names if not matches[name]]
    if missing == [_HEAD]:
        raise ValueError(_no_head_message(model))
    if missing:
        leaves = sorted({_leaf(name) for name in modules if not _leaf(name).isdigit()})
        raise ValueError(
            f"no module of the model matches {' or '.join(missing)} (modules_to_save); expected {', '.join(leaves)}"
        )
    matched = dict.fromkeys(match for matching in matches.values() for match in matching)
    conflict = next(
        (layer for layer in adapted if any(f"{layer}.".startswith(f"{n}.") for n in matched)), None
    )
    if conflict is not None:
        raise ValueError(
            f"{conflict} is in both targets (adapted) and modules_to_save (trained in full); remove it from one of them"
        )
    return [modules[name] for name in matched]


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that match a pattern, or whose last dotted components match it."""
    return [name for name in names if fnmatchcase(f".{name}", f"*.{pattern}")]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _no_head_message(model: nn.Module) -> str:
    """Return an error message for a model without a separate output head."""
    has_table = any(_leaf(name) == _TABLE for name, _ in model.named_modules())
    reason = (
        f"its output head is tied to the embedding table; use {_TABLE}, which adapts both"
        if has_table
        else ""
    )
    return f"the model has no {_HEAD}{f': {reason}' * bool(reason)}"
