"""An adapter that is trained further: PEFT's folder into a model that has the same adapters already."""

import os
from pathlib import Path

import torch
from torch import Tensor

from torchtune.formats.peft._load import LayerAdapter, read_peft_adapter
from torchtune.modules import Decoder, adapted_layers, is_sharded


def check_same_adapters(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Compare a model's adapters with those of a PEFT folder.

    Args:
        model: With adapters; it may be on the meta device.
        folder: As in `load_peft_adapter`.

    Raises:
        FileNotFoundError: A file of the folder is missing.
        ValueError: The folder is damaged, or its adapters differ in layers, kind, rank or scale.
    """
    folder_adapters = _by_layer(model, Path(folder))
    ours = {name: adapter for name, _, adapter in adapted_layers(model)}
    differing = sorted(ours.keys() ^ folder_adapters.keys())
    if differing:
        owner = "the model's" if differing[0] in ours else "that folder's"
        raise ValueError(
            f"lora.targets: the adapter in {folder} is on other layers: {differing[0]} is one of {owner} alone"
            f"{f', and {len(differing) - 1} more are of one of them' * (len(differing) > 1)}"
        )
    for name, adapter in ours.items():
        theirs = folder_adapters[name]
        settings = {
            "kind": (type(adapter).__name__.lower(), theirs.kind.__name__.lower()),
            "rank": (adapter.rank, theirs.rank),
            "alpha": (float(adapter.alpha), float(theirs.alpha)),
            "rank_stabilized": (adapter.rank_stabilized, theirs.rank_stabilized),
        }
        for setting, (here, there) in settings.items():
            if here != there:
                raise ValueError(
                    f"lora.{setting} is {here}, and the adapter in {folder} has {there} (at {name}); set it to {there}"
                )


@torch.no_grad()
def load_same_adapters(model: Decoder, folder: str | os.PathLike[str]) -> None:
    """Load the adapters of a PEFT folder into those of a model, which are of the same layers, kinds and ranks.

    Args:
        model: `check_same_adapters` holds for it; its parameters may be sharded.
        folder: As in `load_peft_adapter`.
    """
    adapters = {name: adapter for name, _, adapter in adapted_layers(model)}
    for name, layer_adapter in _by_layer(model, Path(folder)).items():
        tensors = layer_adapter.shares()[name]
        for part, parameter in adapters[name].named_parameters():
            parameter.copy_(_like(tensors[part], parameter))


def _by_layer(model: Decoder, folder: Path) -> dict[str, LayerAdapter]:
    """Return a folder's adapters by our names of their layers."""
    return {name: adapter for adapter in read_peft_adapter(model, folder).values() for name in adapter.ours}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a tensor as a parameter is, if it is sharded."""
    tensor = tensor.to(parameter.device, parameter.dtype)
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
