"""Convert between a decoder's architecture and Hugging Face's config.json."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import evolve

from torchtune.files import read_json
from torchtune.formats._quantized import check_unquantized_config
from torchtune.models import FAMILIES, KEYS, write_rope
from torchtune.modules import Architecture, Decoder, RotarySpec
from torchtune.runs import check_full_model, missing_model_message

_NOT_COPIED = frozenset({"transformers_version", "auto_map", "torch_dtype", "dtype"})
"""Keys of a base's config.json that are not copied: its code is not written, and the dtype may change."""


def hf_config(
    model: Decoder, base: Mapping[str, Any] | None = None, *, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Return the config.json of a decoder, for transformers 4.43 or later.

    Args:
        model: The decoder.
        base: The config.json of the model that the decoder was trained or converted from. Its keys are kept, including
            unknown ones, except where the decoder differs from that model. The larger of the two maximum sequence
            lengths is written, since a run may use a smaller one to save memory.
        dtype: The dtype of the weights in the same folder, in which transformers loads them; None: the dtype
            of the decoder's parameters (`main_dtype`).
    """
    if dtype is None:
        dtype = main_dtype((tensor.dtype, tensor.numel()) for tensor in model.state_dict().values())
    dtype_name = str(dtype).removeprefix("torch.")
    if base is None:
        return {**_config_from(model.architecture), "torch_dtype": dtype_name}
    base_architecture = architecture_from_hf(dict(base))
    architecture = model.architecture
    if isinstance(architecture.positions, RotarySpec):  # learned positions have weights of this length
        max_seq_len = max(base_architecture.max_seq_len, architecture.max_seq_len)
        architecture = evolve(architecture, max_seq_len=max_seq_len)
    base_config, config = _config_from(base_architecture), _config_from(architecture)
    return {
        **{key: value for key, value in base.items() if key not in _NOT_COPIED},
        **{key: value for key, value in config.items() if value != base_config.get(key)},
        **({"dtype": dtype_name} if "dtype" in base else {}),
        "torch_dtype": dtype_name,
    }


def main_dtype(tensors: Iterable[tuple[torch.dtype, int]]) -> torch.dtype:
    """Return the floating-point dtype with the most elements, which becomes the dtype in config.json.

    Args:
        tensors: The dtype and the number of elements of each tensor.
    """
    totals = Counter[torch.dtype]()
    for dtype, n_elements in tensors:
        if dtype.is_floating_point:
            totals[dtype] += n_elements
    return totals.most_common(1)[0][0]


def _config_from(a: Architecture) -> dict[str, Any]:
    values, family = a.flat(), FAMILIES[a.family]
    return {
        "architectures": [family.hf_class],
        "model_type": a.family,
        **{key: values[name] for name, key in family.keys.items()},
        **{key: value for key, value in family.fixed.items() if key not in family.ignored},
        **write_rope(a),
        **family.write(a),
    }


def architecture_from_hf(config: dict[str, Any]) -> Architecture:
    """Return the architecture that a config.json describes.

    Raises:
        ValueError: The model is not supported, or a required key is missing.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        families = ", ".join(FAMILIES)
        raise ValueError(
            f"model_type {config.get('model_type')!r} is not supported; expected one of {families}"
        )
    for key, value in family.fixed.items():
        if config.get(key, value) not in (value, None):
            raise ValueError(f"{key} is {config[key]!r}; only {value!r} is supported")
    config = {key: value for key, value in config.items() if value is not None}
    keys = family.keys
    try:
        width = config[keys["embed_dim"]]
        heads = config[keys["num_heads"]]
        defaults = {"num_kv_heads": heads, "head_dim": width // heads, "tied_embeddings": family.tied}
        if family.ffn_factor is not None:
            defaults["ffn_dim"] = family.ffn_factor * width
        numbers: dict[str, Any] = {}
        for name in KEYS:
            is_default = name in defaults and keys.get(name) not in config
            numbers[name] = defaults[name] if is_default else config[keys[name]]
        return Architecture.from_values(family=config["model_type"], **numbers, **family.read(config))
    except KeyError as error:
        raise ValueError(f"key {error.args[0]!r} is missing") from error


def read_hf_config(folder: Path) -> Architecture:
    """Read the architecture of the model in a Hugging Face folder.

    Raises:
        FileNotFoundError: config.json is missing.
        ValueError: config.json is damaged, or describes a model that is quantized or not supported.
    """
    path = folder / "config.json"
    try:
        values = read_json(path)
    except FileNotFoundError:
        check_full_model(folder)
        raise FileNotFoundError(missing_model_message(folder)) from None
    if values.get("model_type") in FAMILIES:
        check_unquantized_config(folder, values)
    try:
        return architecture_from_hf(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
