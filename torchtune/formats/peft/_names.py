"""Names of the tensors in PEFT's files, without segments that model wrappers add."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from torchtune.formats._wrapped_names import is_wrapped, matched_names, unwrap_name, without_wrappers
from torchtune.formats.peft._layers import PREFIX

_ADAPTER_NAME = re.compile(r"\.(lora_[A-Za-z_]+|modules_to_save)\.default(?=\.|$)")
"""`state_dict()` of a PEFT model includes the adapter's name (`default`); PEFT's files do not."""
_WRAPPED_MODULE = re.compile(r"\.(base_layer|original_module|modules_to_save)(?=\.)")
"""Attributes under which PEFT wraps a layer that it adapts or trains in full."""


def match_peft_tensors(tensors: Mapping[str, Tensor], peft_names: Iterable[str]) -> dict[str, Tensor]:
    """Rename tensors to their names in PEFT's files, regardless of the saved model's wrappers.

    Args:
        tensors: The tensors by name in the file, such as `_orig_mod.model.layers.0.mlp.up_proj.lora_A.default.weight`.
        peft_names: PEFT's names of all possible tensors.

    Raises:
        ValueError: Two tensors have the same name without wrapper prefixes.
    """
    matches = matched_names(tensors, peft_names, _unwrapped_layer_name)
    return {name: tensors[file_name] for name, file_name in matches.items()}


def unwrapped_peft_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove wrapper segments from the names of adapter tensors whose base model is unknown.

    Args:
        tensors: As in `match_peft_tensors`.

    Raises:
        ValueError: Two tensors have the same name without wrapper prefixes.
    """
    peft_names = map(_unwrapped_file_name, tensors)
    matches = matched_names(tensors, peft_names, _unwrapped_file_name)
    return {name: tensors[file_name] for name, file_name in matches.items()}


def _unwrapped_file_name(name: str) -> str:
    if not is_wrapped(name) and not _ADAPTER_NAME.search(name):
        return name
    peft_name = _without_adapter_name(without_wrappers(name))
    return peft_name if peft_name.startswith(PREFIX) else PREFIX + peft_name


def _unwrapped_layer_name(name: str) -> str:
    return _WRAPPED_MODULE.sub("", _without_adapter_name(unwrap_name(name)))


def _without_adapter_name(name: str) -> str:
    name = _ADAPTER_NAME.sub(r".\1", name)
    return name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector")
