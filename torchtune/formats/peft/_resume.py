"""Continue training an adapter: load a PEFT folder into a model that already has the same adapters."""

import os
from collections.abc import Collection
from pathlib import Path

import torch

from torchtune.formats.hf._weights import iter_weights
from torchtune.formats.peft._load import LayerAdapter, PeftAdapter, read_peft_adapter
from torchtune.modules import (
    Adapter,
    Decoder,
    adapted_layers,
    copy_full,
    fully_trained_parameters,
    kind_of_adapter,
)

_StrPath = str | os.PathLike[str]


def check_same_adapters(model: Decoder, folder: _StrPath) -> None:
    """Check that a model has the same adapters and the same fully trained modules as a PEFT folder.

    Args:
        model: A model with adapters; it may be on the meta device.
        folder: As in `load_peft_adapter`.

    Raises:
        FileNotFoundError: A file of the folder is missing.
        ValueError: The folder is damaged, its adapters differ in layers, kind, rank or scale, or its fully trained
            modules differ.
    """
    peft_adapter = read_peft_adapter(model, Path(folder))
    if peft_adapter.is_untied:
        raise ValueError(
            f"lora.adapter_directory: the adapter in {folder} changes the embedding table and the output head"
            " differently, but they are tied in this model; merge the adapter (tune convert) and train the result,"
            " which is untied"
        )
    layers = _by_layer(peft_adapter)
    adapters = {name: adapter for name, _, adapter in adapted_layers(model)}
    _check_same("targets", "adapts different layers", adapters.keys(), layers.keys(), folder)
    # PEFT also writes the base's embeddings if they are adapted.
    fully_trained = {
        name
        for name, _ in iter_weights(model, peft_adapter.full_tensors)
        if name.removesuffix(".weight") not in adapters
    }
    _check_same(
        "modules_to_save",
        "trains different modules in full",
        fully_trained_parameters(model).keys(),
        fully_trained,
        folder,
    )
    for name, adapter in adapters.items():
        _check_settings(name, adapter, layers[name], folder)


@torch.no_grad()
def load_same_adapters(model: Decoder, folder: _StrPath) -> None:
    """Load the adapters and fully trained modules of a PEFT folder into a model that already has the same adapters.

    Args:
        model: A model that passes `check_same_adapters`; its parameters may be sharded.
        folder: As in `load_peft_adapter`.
    """
    adapters = {name: adapter for name, _, adapter in adapted_layers(model)}
    peft_adapter = read_peft_adapter(model, Path(folder))
    fully_trained = fully_trained_parameters(model)
    for name, tensor in iter_weights(model, peft_adapter.full_tensors):
        if name in fully_trained:
            copy_full(fully_trained[name], tensor)
    for name, layer in _by_layer(peft_adapter).items():
        tensors = layer.split_tensors()[name]
        for parameter_name, parameter in adapters[name].named_parameters():
            copy_full(parameter, tensors[parameter_name])


def _check_same(
    field: str,
    difference: str,
    model_names: Collection[str],
    folder_names: Collection[str],
    folder: _StrPath,
) -> None:
    """Check that a model and a folder adapt the same layers, or train the same modules in full."""
    differing = sorted({*model_names} ^ {*folder_names})
    if differing:
        owner = "config" if differing[0] in model_names else "adapter"
        remaining = f", and {len(differing) - 1} more differ" * (len(differing) > 1)
        raise ValueError(
            f"lora.{field}: the adapter in {folder} {difference}: {differing[0]} is only in the {owner}{remaining};"
            f" change lora.{field} to match the adapter"
        )


def _check_settings(name: str, adapter: Adapter, saved_adapter: LayerAdapter, folder: _StrPath) -> None:
    """Check that a layer's adapter has the same kind, rank and scale as the adapter saved in a folder."""
    settings = {
        "kind": (kind_of_adapter(adapter), saved_adapter.kind),
        "rank": (adapter.rank, saved_adapter.rank),
        "alpha": (float(adapter.alpha), float(saved_adapter.alpha)),
        "rank_stabilized": (adapter.rank_stabilized, saved_adapter.rank_stabilized),
    }
    for setting, (expected, saved) in settings.items():
        if expected != saved:
            raise ValueError(
                f"lora.{setting} is {expected}, but the adapter in {folder} has {saved} (layer {name});"
                f" set it to {saved}"
            )


def _by_layer(peft_adapter: PeftAdapter) -> dict[str, LayerAdapter]:
    """Return the adapters of a folder by the names of the model layers."""
    return {name: layer for layer in peft_adapter.layers.values() for name in layer.layer_names}
