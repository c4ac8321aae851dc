"""A checkpoint's weights with an adapter added to them."""

from collections.abc import Mapping

import torch
from attrs import evolve
from torch import Tensor

from torchtune.formats._tensor_files import TensorSource
from torchtune.formats.hf._weights import is_transposed
from torchtune.formats.peft._load import LayerAdapter
from torchtune.modules import Architecture


def merged_weights(
    base: TensorSource, architecture: Architecture, adapters: Mapping[str, LayerAdapter]
) -> TensorSource:
    """Return the weights of a base with its adapter merged, as `merge_lora` does it, one by one.

    An adapted weight is read in float32 at least, and rounded to nothing narrower; a base of the dtype that is written
    gives `merge_lora`'s numbers to the bit.

    Args:
        base: The base's weights.
        architecture: The base's.
        adapters: By the checkpoint's names of the layers.
    """

    def read(name: str) -> Tensor:
        tensor = base.read(name)
        adapter = adapters.get(name.removesuffix(".weight"))
        if adapter is None:
            return tensor
        transposed = is_transposed(architecture, name)
        weight = tensor.T if transposed else tensor  # [out, in]
        parts = zip(adapter.split(weight), adapter.adapters().values(), strict=True)
        merged = torch.cat([part_adapter.merge(part) for part, part_adapter in parts])
        return merged.T if transposed else merged

    return evolve(base, read=read)
