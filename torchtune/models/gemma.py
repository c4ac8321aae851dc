"""Gemma (text): scaled embeddings, offset norms and GEGLU; Gemma 2 and 3 add sliding windows, Gemma 2 soft caps."""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

from attrs import evolve

from torchtune.models._builder import Builder, name_builders, size
from torchtune.models._family import Config, Family, layer_types, read_rope, rope, windows
from torchtune.models.llama2 import llama2_7b
from torchtune.modules import Architecture
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, check_options, load_tokenizer


def _size_with_width(checkpoint: str, like: Builder, embed_dim: int) -> Callable[..., Builder]:
    """Declare a size with a different width; embeddings are scaled by the square root of the width."""
    return partial(size(checkpoint, like), embed_dim=embed_dim, embed_scale=math.sqrt(embed_dim))


# arXiv 2403.08295, table 1.
gemma_2b = _size_with_width("google/gemma-2b", llama2_7b, 2048)(
    family="gemma",
    activation="gelu_tanh",
    norm_offset=1.0,
    vocab_size=256_000,
    num_layers=18,
    num_heads=8,
    num_kv_heads=1,
    head_dim=256,
    ffn_dim=16_384,
    max_seq_len=8192,
    norm_eps=1e-6,
    tied_embeddings=True,
)
gemma_7b = _size_with_width("google/gemma-7b", gemma_2b, 3072)(
    num_layers=28, num_heads=16, num_kv_heads=16, ffn_dim=24_576
)
# arXiv 2408.00118, table 1 and section 2.
gemma2_2b = _size_with_width("google/gemma-2-2b", gemma_2b, 2304)(
    family="gemma2",
    norm_layout="both",
    window=4096,
    full_attention_every=2,
    attention_scale=256**-0.5,
    attention_softcap=50.0,
    final_softcap=30.0,
    num_layers=26,
    num_kv_heads=4,
    ffn_dim=9216,
)
gemma2_9b = _size_with_width("google/gemma-2-9b", gemma2_2b, 3584)(
    num_layers=42, num_heads=16, num_kv_heads=8, ffn_dim=14_336
)
gemma2_27b = _size_with_width("google/gemma-2-27b", gemma2_9b, 4608)(
    attention_scale=144**-0.5, num_layers=46, num_heads=32, num_kv_heads=16, head_dim=128, ffn_dim=36_864
)
# arXiv 2503.19786, section 2: query and key norms instead of soft caps, five local layers per global layer.
gemma3_1b = _size_with_width("google/gemma-3-1b-pt", gemma2_2b, 1152)(
    family="gemma3_text",
    qk_norm="head",
    attention_softcap=None,
    final_softcap=None,
    window=512,
    full_attention_every=6,
    rope_base=1e6,
    rope_local_base=10_000.0,
    vocab_size=262_144,
    num_heads=4,
    num_kv_heads=1,
    ffn_dim=6912,
    max_seq_len=32_768,
)
gemma3_270m = _size_with_width("google/gemma-3-270m", gemma3_1b, 640)(num_layers=18, ffn_dim=2048)


_TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")
_IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>")
"""Tokens that only Gemma 3 has."""


def gemma_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load the tokenizer of Gemma 1, 2 or 3.

    Args:
        path: The model's tokenizer.json or tokenizer.model, or its folder. The turn and image tokens are special, even
            though the SentencePiece model treats them as text. Answers also end at `<end_of_turn>`.
        **options: Options that all tokenizers accept.
    """
    check_options(options)
    options["stop_tokens"] = [_TURN_TOKENS[1], *(options.get("stop_tokens") or ())]
    return load_tokenizer(path, options, special_tokens=(*_TURN_TOKENS, *_IMAGE_TOKENS))


def _gemma(config: Config) -> dict[str, Any]:
    activation = config.get("hidden_activation")
    if activation is None and config["model_type"] == "gemma" and config.get("hidden_act") != "gelu":
        activation = config.get("hidden_act")  # Gemma 1's first configs call the tanh approximation "gelu"
    if activation not in (None, "gelu_pytorch_tanh"):
        raise ValueError(f"the activation is {activation!r}, but only 'gelu_pytorch_tanh' is supported")
    return {
        **read_rope(config),
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "embed_scale": math.sqrt(config["hidden_size"]),
    }


_ACTIVATION = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}

GEMMA_FAMILY = Family(
    model_type="gemma",
    hf_class="GemmaForCausalLM",
    gguf="gemma",
    fixed={"attention_bias": False},
    read=_gemma,
    write=lambda _: _ACTIVATION,
    tied=True,
)


def _gemma2(config: Config) -> dict[str, Any]:
    return {
        **_gemma(config),
        **windows(config, full_every=2),
        "norm_layout": "both",
        "attention_scale": config.get("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": config.get("attn_logit_softcapping"),
        "final_softcap": config.get("final_logit_softcapping"),
    }


def _write_gemma2(a: Architecture) -> dict[str, Any]:
    values = a.flat()
    scale = values["attention_scale"] or values["head_dim"] ** -0.5
    return {
        **_ACTIVATION,
        "query_pre_attn_scalar": round(scale**-2),  # an int in transformers
        "attn_logit_softcapping": values["attention_softcap"],
        "final_logit_softcapping": a.final_softcap,
        "sliding_window": values["window"],
        "layer_types": layer_types(a),
    }


_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose attention scale uses embed_dim / num_heads instead of head_dim."""


def _read_gguf(metadata: Config, sizes: Config) -> dict[str, Any]:
    is_27b = sizes["num_layers"] == _LAYERS_OF_27B[metadata["general.architecture"]]
    query_pre_attn_scalar = sizes["embed_dim"] // sizes["num_heads"] if is_27b else sizes["head_dim"]
    return {
        "sliding_window": metadata.get("attention.sliding_window"),
        "query_pre_attn_scalar": query_pre_attn_scalar,
        "attn_logit_softcapping": metadata.get("attn_logit_softcapping"),
        "final_logit_softcapping": metadata.get("final_logit_softcapping"),
    }


GEMMA2_FAMILY = evolve(
    GEMMA_FAMILY,
    model_type="gemma2",
    hf_class="Gemma2ForCausalLM",
    gguf="gemma2",
    read_gguf=_read_gguf,
    read=_gemma2,
    write=_write_gemma2,
)


def _gemma3(config: Config) -> dict[str, Any]:
    local, _ = rope(config, "sliding_attention")
    return {
        **_gemma2(config),
        **windows(config, full_every=config.get("sliding_window_pattern", 6)),
        "qk_norm": "head",
        "rope_local_base": config.get("rope_local_base_freq", local),
    }


GEMMA3_FAMILY = Family(
    model_type="gemma3_text",
    hf_class="Gemma3ForCausalLM",
    gguf="gemma3",
    read_gguf=lambda metadata, sizes: {
        **_read_gguf(metadata, sizes),
        "rope_local_base_freq": metadata.get("rope.freq_base_swa", 10_000.0),
    },
    fixed={"attention_bias": False, "use_bidirectional_attention": False},
    ignored=frozenset({"use_bidirectional_attention"}),
    read=_gemma3,
    write=lambda a: {**_write_gemma2(a), "rope_local_base_freq": a.flat()["rope_local_base"]},
    tied=True,
)

name_builders(__name__)
