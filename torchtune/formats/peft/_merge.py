"""A checkpoint's weights with an adapter added to them."""

import torch
from attrs import evolve
from torch import Tensor

from torchtune.formats._source import Checkpoint
from torchtune.formats._tensor_files import TensorSource
from torchtune.formats.hf._weights import is_transposed
from torchtune.formats.peft._layers import HEAD, table_name, with_own_head
from torchtune.formats.peft._load import PeftAdapter
from torchtune.modules import Architecture


def untied(checkpoint: Checkpoint) -> Checkpoint:
    """Give a checkpoint whose output head is its embedding table a head of its own, with the table's values."""
    table, head = f"{table_name(checkpoint.model)}.weight", f"{HEAD}.weight"
    names = {name: name for name in checkpoint.weights.shapes} | {head: table}
    return evolve(
        checkpoint, model=with_own_head(checkpoint.model), weights=checkpoint.weights.renamed(names)
    )


def merged_weights(base: TensorSource, architecture: Architecture, adapter: PeftAdapter) -> TensorSource:
    """Return the weights of a base with its adapter merged, as `merge_lora` does it, one by one.

    An adapted weight is read in float32 at least, and rounded to nothing narrower; a base of the dtype that is written
    gives `merge_lora`'s numbers to the bit.

    Args:
        base: The base's weights.
        architecture: The base's.
        adapter: What changes them.
    """

    def read(name: str) -> Tensor:
        tensor = adapter.in_full.read(name) if name in adapter.in_full.shapes else base.read(name)
        layer = adapter.layers.get(name.removesuffix(".weight"))
        if layer is None:
            return tensor
        transposed = is_transposed(architecture, name)
        weight = tensor.T if transposed else tensor  # [out, in], or an embedding table [v, d]
        parts = zip(layer.split(weight), layer.adapters().values(), strict=True)
        merged = torch.cat([part_adapter.merge(part) for part, part_adapter in parts])
        return merged.T if transposed else merged

    return evolve(base, read=read)
