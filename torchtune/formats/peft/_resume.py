"""An adapter that is trained further: PEFT's folder into a model that has the same adapters already."""

import os
from collections.abc import Collection
from pathlib import Path

import torch

from torchtune.formats.hf._weights import weights_of
from torchtune.formats.peft._load import LayerAdapter, PeftAdapter, read_peft_adapter
from torchtune.modules import Adapter, Decoder, adapted_layers, copy_full, kind_of_adapter, fully_trained_parameters

_StrPath = str | os.PathLike[str]


def check_same_adapters(model: Decoder, folder: _StrPath) -> None:
    """Compare a model's adapters, and the modules that it trains in full, with those of a PEFT folder.

    Args:
        model: With adapters; it may be on the meta device.
        folder: As in `load_peft_adapter`.

    Raises:
        FileNotFoundError: A file of the folder is missing.
        ValueError: The folder is damaged, or its adapters differ in layers, kind, rank or scale, or its modules do.
    """
    change = read_peft_adapter(model, Path(folder))
    if change.is_untied:
        raise ValueError(
            f"lora.adapter_directory: the adapter in {folder} changes the embedding table and the output head"
            " differently, which are one in this model; merge it (tune convert), and train the result, which has an"
            " output head of its own"
        )
    theirs, ours = _by_layer(change), {name: adapter for name, _, adapter in adapted_layers(model)}
    _check_same("targets", "on other layers", ours.keys(), theirs.keys(), folder)
    # Next to adapters of embeddings, PEFT writes the base's own.
    in_full = {
        name for name, _ in weights_of(model, change.in_full) if name.removesuffix(".weight") not in ours
    }
    _check_same("modules_to_save", "with other modules", fully_trained_parameters(model).keys(), in_full, folder)
    for name, adapter in ours.items():
        _check_settings(name, adapter, theirs[name], folder)


@torch.no_grad()
def load_same_adapters(model: Decoder, folder: _StrPath) -> None:
    """Load the adapters and modules of a PEFT folder into those of a model, which are the same ones.

    Args:
        model: `check_same_adapters` holds for it; its parameters may be sharded.
        folder: As in `load_peft_adapter`.
    """
    adapters = {name: adapter for name, _, adapter in adapted_layers(model)}
    change = read_peft_adapter(model, Path(folder))
    in_full = fully_trained_parameters(model)
    for name, tensor in weights_of(model, change.in_full):
        if name in in_full:
            copy_full(in_full[name], tensor)
    for name, layer in _by_layer(change).items():
        tensors = layer.shares()[name]
        for part, parameter in adapters[name].named_parameters():
            copy_full(parameter, tensors[part])


def _check_same(
    field: str, what: str, ours: Collection[str], theirs: Collection[str], folder: _StrPath
) -> None:
    """Check that a model and a folder have the same adapted layers, or modules."""
    differing = sorted({*ours} ^ {*theirs})
    if differing:
        owner = "the model's" if differing[0] in ours else "that folder's"
        more = f", and {len(differing) - 1} more are of one of them" * (len(differing) > 1)
        raise ValueError(
            f"lora.{field}: the adapter in {folder} is {what}: {differing[0]} is one of {owner} alone{more}"
        )


def _check_settings(name: str, adapter: Adapter, theirs: LayerAdapter, folder: _StrPath) -> None:
    """Check that a layer's adapter is of the same kind, rank and scale as that of a folder."""
    settings = {
        "kind": (kind_of_adapter(adapter), theirs.kind),
        "rank": (adapter.rank, theirs.rank),
        "alpha": (float(adapter.alpha), float(theirs.alpha)),
        "rank_stabilized": (adapter.rank_stabilized, theirs.rank_stabilized),
    }
    for setting, (expected, saved) in settings.items():
        if expected != saved:
            raise ValueError(
                f"lora.{setting} is {expected}, and the adapter in {folder} has {saved} (at {name}); set it to {saved}"
            )


def _by_layer(change: PeftAdapter) -> dict[str, LayerAdapter]:
    """Return a folder's adapters by our names of their layers."""
    return {name: layer for layer in change.layers.values() for name in layer.ours}
