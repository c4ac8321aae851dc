"""Names of the tensors in PEFT's files, without what wrappers put into them."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from torchtune.formats._wrapped_names import matched_names, unwrapped
from torchtune.formats.peft._layers import PREFIX

_ADAPTER_NAME = re.compile(r"\.(lora_[A-Za-z_]+)\.default(?=\.|$)")
"""`state_dict()` of PEFT's models has the adapter's name, which its files do not."""


def peft_tensors_of(
    tensors: Mapping[str, Tensor], layers: Iterable[str], ends: Iterable[str]
) -> dict[str, Tensor]:
    """Name adapters as PEFT's files do, whatever wrappers the model had when they were written.

    Args:
        tensors: By the file's names, such as `_orig_mod.model.layers.0.mlp.up_proj.lora_A.default.weight`.
        layers: The checkpoint's names of the layers that can be adapted.
        ends: Ends of the names of an adapter's tensors.

    Raises:
        ValueError: two tensors have the same name without wrapper prefixes.
    """
    known = [f"{PREFIX}{layer}.{end}" for layer in layers for end in ends]
    return {name: tensors[theirs] for name, theirs in matched_names(tensors, known, _bare).items()}


def _bare(name: str) -> str:
    name = _ADAPTER_NAME.sub(r".\1", unwrapped(name))
    return name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")
