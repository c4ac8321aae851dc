"""A checkpoint's weights with an adapter merged into them."""

import torch
from attrs import evolve
from torch import Tensor

from torchtune.formats._checkpoint import Checkpoint
from torchtune.formats._tensor_files import TensorSource
from torchtune.formats.hf._weights import is_transposed
from torchtune.formats.peft._layers import HEAD, table_name, with_untied_head
from torchtune.formats.peft._load import PeftAdapter
from torchtune.modules import Architecture


def untie_embeddings(checkpoint: Checkpoint) -> Checkpoint:
    """Return a tied checkpoint with a separate output head that is a copy of the embedding table."""
    table, head = f"{table_name(checkpoint.model)}.weight", f"{HEAD}.weight"
    names = {name: name for name in checkpoint.weights.shapes} | {head: table}
    return evolve(
        checkpoint, model=with_untied_head(checkpoint.model), weights=checkpoint.weights.renamed(names)
    )


def merged_weights(base: TensorSource, architecture: Architecture, adapter: PeftAdapter) -> TensorSource:
    """Return the weights of a base with an adapter merged into them, each computed when it is read.

    An adapted weight is returned in float32 or wider. Cast to the dtype of the base, it matches the result of
    `merge_lora` bit for bit.

    Args:
        base: The base's weights.
        architecture: The architecture of the base.
        adapter: The adapter.
    """

    def read(name: str) -> Tensor:
        tensor = adapter.full_tensors.read(name) if name in adapter.full_tensors.shapes else base.read(name)
        layer = adapter.layers.get(name.removesuffix(".weight"))
        if layer is None:
            return tensor
        transposed = is_transposed(architecture, name)
        weight = tensor.T if transposed else tensor  # [out, in], or an embedding table [v, d]
        parts = zip(layer.split(weight), layer.adapters().values(), strict=True)
        merged = torch.cat([part_adapter.merge(part) for part, part_adapter in parts])
        return merged.T if transposed else merged

    return evolve(base, read=read)
