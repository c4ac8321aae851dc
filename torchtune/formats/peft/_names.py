"""Names of the tensors in PEFT's files, without what wrappers put into them."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from torchtune.formats._wrapped_names import is_wrapped, matched_names, unwrapped, without_wrappers
from torchtune.formats.peft._layers import PREFIX

_ADAPTER_NAME = re.compile(r"\.(lora_[A-Za-z_]+|modules_to_save)\.default(?=\.|$)")
"""`state_dict()` of PEFT's models has the adapter's name, which its files do not."""
_WRAPPED_MODULE = re.compile(r"\.(base_layer|original_module|modules_to_save)(?=\.)")
"""What PEFT puts around a layer that it adapts or trains in full."""


def peft_tensors_of(tensors: Mapping[str, Tensor], known: Iterable[str]) -> dict[str, Tensor]:
    """Name tensors as PEFT's files do, whatever wrappers the model had when they were written.

    Args:
        tensors: By the file's names, such as `_orig_mod.model.layers.0.mlp.up_proj.lora_A.default.weight`.
        known: PEFT's names of all tensors that there may be.

    Raises:
        ValueError: two tensors have the same name without wrapper prefixes.
    """
    return {name: tensors[theirs] for name, theirs in matched_names(tensors, known, _bare).items()}


def unwrapped_peft_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name adapters as PEFT's files do, for a base that is not known: only what wrappers put into names is removed.

    Args:
        tensors: As in `peft_tensors_of`.

    Raises:
        ValueError: two tensors have the same name without wrapper prefixes.
    """
    known = map(_unwrapped_file_name, tensors)
    return {
        name: tensors[theirs] for name, theirs in matched_names(tensors, known, _unwrapped_file_name).items()
    }


def _unwrapped_file_name(name: str) -> str:
    if not is_wrapped(name) and not _ADAPTER_NAME.search(name):
        return name
    bare = _without_adapter_name(without_wrappers(name))
    return bare if bare.startswith(PREFIX) else PREFIX + bare


def _bare(name: str) -> str:
    return _WRAPPED_MODULE.sub("", _without_adapter_name(unwrapped(name)))


def _without_adapter_name(name: str) -> str:
    name = _ADAPTER_NAME.sub(r".\1", name)
    return name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")
