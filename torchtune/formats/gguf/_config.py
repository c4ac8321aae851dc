"""Convert the metadata of a GGUF file to a config.json.

The keys are documented at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; properties of a family that are
missing from the file are taken from llama.cpp's `src/models/` and `convert_hf_to_gguf.py`.
"""

import math
from typing import Any

import numpy as np

from torchtune.formats.gguf._file import GGUFFile
from torchtune.models import FAMILIES, LLAMA3_ROPE_SCALING

_FAMILIES = {family.gguf: family for family in FAMILIES.values() if family.gguf is not None}
"""Model families, keyed by their names in GGUF files."""

_LLAMA3_ROPE = {
    "low_freq_factor": LLAMA3_ROPE_SCALING.low_freq_factor,
    "high_freq_factor": LLAMA3_ROPE_SCALING.high_freq_factor,
    "original_max_position_embeddings": LLAMA3_ROPE_SCALING.original_max_seq_len,
}
"""RoPE scaling in the config.json of Llama 3.1 to 3.3; GGUF files contain the resulting divisors instead."""

ROPE_FREQS = "rope_freqs.weight"
"""The divisors of the rotary frequencies, in files of Llama 3.1 and later."""


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """Return the config.json of a file's model.

    Raises:
        ValueError: The model is not supported.
        KeyError: A metadata key is missing.
    """
    arch = file.metadata["general.architecture"]
    family = _FAMILIES.get(arch)
    if family is None:
        raise ValueError(f"architecture {arch!r} is not supported; expected one of {', '.join(_FAMILIES)}")
    metadata = {key.removeprefix(f"{arch}."): value for key, value in file.metadata.items()}
    if metadata.get("expert_count", 0):
        raise ValueError("mixture-of-experts models are not supported")
    if metadata["block_count"] > len(file.tensors):
        raise ValueError(
            f"block_count is {metadata['block_count']}, but there are only {len(file.tensors)} tensors"
        )
    heads = metadata["attention.head_count"]
    head_dim = metadata.get("attention.key_length", metadata["embedding_length"] // heads)
    if metadata.get("rope.dimension_count", head_dim) != head_dim:
        raise ValueError("partial rotary embeddings are not supported")
    norm = "attention.layer_norm_rms_epsilon"
    if norm not in metadata:
        norm = "attention.layer_norm_epsilon"
    numbers = {
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "num_layers": metadata["block_count"],
        "embed_dim": metadata["embedding_length"],
        "num_heads": heads,
        "num_kv_heads": metadata.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn_dim": metadata["feed_forward_length"],
        "max_seq_len": metadata["context_length"],
        "norm_eps": float(str(np.float32(metadata[norm]))),  # the shortest decimal for this float32
        "tied_embeddings": "output.weight" not in file.tensors,
    }
    family_config = family.read_gguf(metadata, numbers)
    if metadata.get("attention.sliding_window") and "sliding_window" not in family_config:
        raise ValueError(f"sliding-window attention is not supported for architecture {arch!r}")
    return {
        "model_type": family.model_type,
        **{family.keys[name]: value for name, value in numbers.items() if name in family.keys},
        **_rope_config(file, metadata),
        **family_config,
    }


def _rope_config(file: GGUFFile, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of config.json for the rotary embeddings."""
    base = metadata.get("rope.freq_base", 10_000.0)
    kind = metadata.get("rope.scaling.type", "none")
    if ROPE_FREQS in file.tensors:
        return {"rope_theta": base, "rope_scaling": _llama3_scaling(file.read(ROPE_FREQS), base)}
    if kind == "linear":
        scaling = {"rope_type": "linear", "factor": metadata["rope.scaling.factor"]}
        return {"rope_theta": base, "rope_scaling": scaling}
    if kind != "none":
        raise ValueError(f"RoPE scaling {kind!r} is not supported")
    return {"rope_theta": base}


def _llama3_scaling(divisors: Any, base: float) -> dict[str, Any]:
    """Return the RoPE scaling that results in the given divisors of the rotary frequencies.

    Args:
        divisors: `[head_dim / 2]`.
        base: The RoPE base.

    Raises:
        ValueError: The scaling differs from the scaling of Llama 3.1 to 3.3.
    """
    factor = round(float(divisors.max()))
    low, high, length = _LLAMA3_ROPE.values()
    n = len(divisors)
    turns = length / (2 * math.pi) * base ** (-np.arange(n) / n)
    unscaled_fraction = np.clip((turns - low) / (high - low), 0, 1)
    if not np.allclose(divisors * (unscaled_fraction + (1 - unscaled_fraction) / factor), 1, rtol=1e-4):
        raise ValueError("the RoPE scaling differs from the scaling of Llama 3.1 to 3.3")
    return {"rope_type": "llama3", "factor": float(factor), **_LLAMA3_ROPE}
