"""A decoder's architecture as Hugging Face's config.json, and back."""

import json
from pathlib import Path
from typing import Any

from torchtune.modules import Architecture, Decoder

_KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "embed_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn_dim": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
}
"""Our names of what config.json holds under another; rope_base is apart, it moved over time."""

_CLASSES = {"llama": "LlamaForCausalLM"}
"""The class in transformers of each family."""

_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
"""What our decoder does in one way only."""


def hf_config(model: Decoder) -> dict[str, Any]:
    """Describe a decoder as config.json does, for every transformers since 4.40."""
    a = model.architecture
    return {
        "architectures": [_CLASSES[a.family]],
        "model_type": a.family,
        **{theirs: getattr(a, ours) for ours, theirs in _KEYS.items()},
        **_FIXED,
        "rope_theta": a.rope_base,
        "torch_dtype": str(model.norm.weight.dtype).removeprefix("torch."),
    }


def architecture_from_hf(config: dict[str, Any]) -> Architecture:
    """Read the architecture out of a config.json.

    Raises:
        ValueError: the model is of a kind that our decoder cannot be, or a needed key is missing.
    """
    if config.get("model_type") not in _CLASSES:
        raise ValueError(f"model_type {config.get('model_type')!r} is not supported, only {list(_CLASSES)}")
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]!r}, but only {value!r} is supported")
    # transformers 5 writes rope_parameters, earlier ones rope_theta and rope_scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rotary embeddings of type {kind!r} are not supported, only plain ones")
    config = {key: value for key, value in config.items() if value is not None}
    try:
        heads = config["num_attention_heads"]
        config.setdefault("num_key_value_heads", heads)
        config.setdefault("head_dim", config["hidden_size"] // heads)
        config.setdefault("tie_word_embeddings", False)
        return Architecture(
            family=config["model_type"],
            rope_base=rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
            **{ours: config[theirs] for ours, theirs in _KEYS.items()},
        )
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
        return architecture_from_hf(read_json(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no config.json in {folder}; a Hugging Face model folder is expected (tune download, or"
            " tune convert for a GGUF file)"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; fetch it again") from error
    if not isinstance(value, dict):
        # The file is wrong, not an argument's type.
        raise ValueError(f"{path} does not hold a JSON object; fetch it again")  # noqa: TRY004
    return value
