"""A GGUF file's metadata as a config.json.

The keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what llama.cpp knows of a family
without being told by the file is from its `src/models/` and from `convert_hf_to_gguf.py`.
"""

import math
from typing import Any

import numpy as np

from torchtune.formats.gguf._file import GGUFFile
from torchtune.models import FAMILIES, LLAMA3_ROPE_SCALING

_FAMILIES = {family.gguf: family for family in FAMILIES.values() if family.gguf is not None}
"""The families by their names in GGUF files."""

_LLAMA3_ROPE = {
    "low_freq_factor": LLAMA3_ROPE_SCALING.low_freq_factor,
    "high_freq_factor": LLAMA3_ROPE_SCALING.high_freq_factor,
    "original_max_position_embeddings": LLAMA3_ROPE_SCALING.original_max_seq_len,
}
"""What all Llama 3.1 to 3.3 have in their config.json; GGUF files hold what comes of it."""

ROPE_FREQS = "rope_freqs.weight"
"""The divisors of the rotary frequencies, in files of Llama 3.1 and later."""


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """Describe a file's model as config.json does.

    Raises:
        ValueError: it is of a kind that is not supported.
        KeyError: a number is missing.
    """
    arch = file.metadata["general.architecture"]
    family = _FAMILIES.get(arch)
    if family is None:
        raise ValueError(f"its architecture is {arch!r}, only {', '.join(_FAMILIES)} are supported")
    about = {key.removeprefix(f"{arch}."): value for key, value in file.metadata.items()}
    if about.get("expert_count", 0):
        raise ValueError("mixtures of experts are not supported")
    if about["block_count"] > len(file.tensors):
        raise ValueError(f"it speaks of {about['block_count']} layers and has {len(file.tensors)} tensors")
    heads = about["attention.head_count"]
    head_dim = about.get("attention.key_length", about["embedding_length"] // heads)
    if about.get("rope.dimension_count", head_dim) != head_dim:
        raise ValueError("rotary embeddings of a part of each head are not supported")
    norm = "attention.layer_norm_rms_epsilon"
    if norm not in about:
        norm = "attention.layer_norm_epsilon"
    numbers = {
        "vocab_size": len(about["tokenizer.ggml.tokens"]),
        "num_layers": about["block_count"],
        "embed_dim": about["embedding_length"],
        "num_heads": heads,
        "num_kv_heads": about.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "ffn_dim": about["feed_forward_length"],
        "max_seq_len": about["context_length"],
        "norm_eps": float(str(np.float32(about[norm]))),  # the shortest spelling of a float32, such as 1e-5
        "tied_embeddings": "output.weight" not in file.tensors,
    }
    more = family.read_gguf(about, numbers)
    if about.get("attention.sliding_window") and "sliding_window" not in more:
        raise ValueError(f"sliding windows are not supported in the architecture {arch!r}")
    return {
        "model_type": family.model_type,
        **{family.keys[name]: value for name, value in numbers.items() if name in family.keys},
        **_positions(file, about),
        **more,
    }


def _positions(file: GGUFFile, about: dict[str, Any]) -> dict[str, Any]:
    """Describe the rotary embeddings."""
    base = about.get("rope.freq_base", 10_000.0)
    kind = about.get("rope.scaling.type", "none")
    if ROPE_FREQS in file.tensors:
        return {"rope_theta": base, "rope_scaling": _llama3(file.read(ROPE_FREQS), base)}
    if kind == "linear":
        scaling = {"rope_type": "linear", "factor": about["rope.scaling.factor"]}
        return {"rope_theta": base, "rope_scaling": scaling}
    if kind != "none":
        raise ValueError(f"rotary embeddings scaled by {kind!r} are not supported")
    return {"rope_theta": base}


def _llama3(divisors: Any, base: float) -> dict[str, Any]:
    """Find the scaling that divides rotary frequencies so.

    Args:
        divisors: `[head_dim / 2]`.
        base: Of the frequencies.
    """
    factor = round(float(divisors.max()))
    low, high, length = _LLAMA3_ROPE.values()
    n = len(divisors)
    turns = length / (2 * math.pi) * base ** (-np.arange(n) / n)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    if not np.allclose(divisors * (kept + (1 - kept) / factor), 1, rtol=1e-4):
        raise ValueError("its rotary frequencies are scaled in another way than those of Llama 3.1 to 3.3")
    return {"rope_type": "llama3", "factor": float(factor), **_LLAMA3_ROPE}
