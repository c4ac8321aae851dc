"""A decoder's architecture as Hugging Face's config.json, and back."""

from pathlib import Path
from typing import Any

from torchtune.files import read_json
from torchtune.models import FAMILIES, KEYS, written_rope
from torchtune.modules import Architecture, Decoder
from torchtune.runs import no_model


def hf_config(model: Decoder) -> dict[str, Any]:
    """Describe a decoder as config.json does, for every transformers since 4.43."""
    a = model.architecture
    values, family = a.flat(), FAMILIES[a.family]
    return {
        "architectures": [family.hf_class],
        "model_type": a.family,
        **{theirs: values[ours] for ours, theirs in family.keys.items()},
        **{key: value for key, value in family.fixed.items() if key not in family.ignored},
        **written_rope(a),
        **family.write(a),
        "torch_dtype": str(next(model.norm.parameters()).dtype).removeprefix("torch."),
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
        return Architecture.of(family=config["model_type"], **numbers, **family.read(config))
    except KeyError as error:
        raise ValueError(f"there is no {error.args[0]!r}") from error


def read_hf_config(folder: Path) -> Architecture:
    """Read the architecture of the model in a Hugging Face folder.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: config.json is damaged, or describes a model that is not supported.
    """
    path = folder / "config.json"
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise FileNotFoundError(no_model(folder)) from None
    try:
        return architecture_from_hf(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
