"""A decoder's architecture as Hugging Face's config.json, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from torchtune.files import read_json
from torchtune.formats._quantised import check_unquantised_config
from torchtune.models import FAMILIES, KEYS, write_rope
from torchtune.modules import Architecture, Decoder, RotarySpec
from torchtune.runs import check_full_model, missing_model_message

_NOT_COPIED = frozenset({"transformers_version", "auto_map", "torch_dtype", "dtype"})
"""Keys of a base's config.json that are not true of what is written: its code is not copied, its dtype may change."""


def hf_config(model: Decoder, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe a decoder as config.json does, for every transformers since 4.43.

    Args:
        model: The decoder.
        base: config.json of the model that it was trained from or converted from. Its keys stay as they are, also those
            that nothing reads here, except where the decoder differs from that model. The longest sequence is the
            longer of the two: a run may train on shorter ones to save memory.
    """
    dtype = str(next(model.norm.parameters()).dtype).removeprefix("torch.")
    if base is None:
        return {**_described(model.architecture), "torch_dtype": dtype}
    before = architecture_from_hf(dict(base))
    now = model.architecture
    if isinstance(now.positions, RotarySpec):  # of others the weights have as many rows
        now = evolve(now, max_seq_len=max(before.max_seq_len, now.max_seq_len))
    keys_before, keys = _described(before), _described(now)
    return {
        **{key: value for key, value in base.items() if key not in _NOT_COPIED},
        **{key: value for key, value in keys.items() if value != keys_before.get(key)},
        **({"dtype": dtype} if "dtype" in base else {}),
        "torch_dtype": dtype,
    }


def _described(a: Architecture) -> dict[str, Any]:
    values, family = a.flat(), FAMILIES[a.family]
    return {
        "architectures": [family.hf_class],
        "model_type": a.family,
        **{theirs: values[ours] for ours, theirs in family.keys.items()},
        **{key: value for key, value in family.fixed.items() if key not in family.ignored},
        **write_rope(a),
        **family.write(a),
    }


def architecture_from_hf(config: dict[str, Any]) -> Architecture:
    """Read the architecture out of a config.json.

    Raises:
        ValueError: the model is of a kind that our decoder cannot be, or a needed key is missing.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model_type {config.get('model_type')!r} is not supported, only {known}")
    for key, value in family.fixed.items():
        if config.get(key, value) not in (value, None):
            raise ValueError(f"{key} is {config[key]!r}, but only {value!r} is supported")
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
        raise ValueError(f"there is no {error.args[0]!r}") from error


def read_hf_config(folder: Path) -> Architecture:
    """Read the architecture of the model in a Hugging Face folder.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: config.json is damaged, or describes a model that is not supported, or quantised.
    """
    path = folder / "config.json"
    try:
        values = read_json(path)
    except FileNotFoundError:
        check_full_model(folder)
        raise FileNotFoundError(missing_model_message(folder)) from None
    if values.get("model_type") in FAMILIES:
        check_unquantised_config(folder, values)
    try:
        return architecture_from_hf(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
