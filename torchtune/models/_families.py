"""What Hugging Face's config.json says of each family, beyond the numbers that all of them share.

A family is the class that transformers has for it, what its config.json must say for our decoder to be that model, and
how the rest of its architecture is read out of it and written into it. The keys and their meaning are those of the
families' configuration classes in transformers 5 (`src/transformers/models/*/configuration_*.py`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from torchtune.modules import Architecture, RopeScaling

Config = Mapping[str, Any]
"""A config.json."""


KEYS = {
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
"""Our names of what nearly every family's config.json holds under another."""


@frozen
class Fused:
    """Several of our weights that checkpoints hold as one, below each other."""

    theirs: str
    """The end of its name, such as `self_attn.qkv_proj`."""
    ours: tuple[str, ...]
    """The ends of ours, in their order."""


@frozen(kw_only=True)
class Family:
    """One family's side of config.json."""

    hf_class: str
    """The class in transformers."""
    fixed: dict[str, Any] = field(factory=dict)
    """What our decoder does in one way only; a config that says otherwise is refused."""
    ignored: frozenset[str] = frozenset()
    """Keys of `fixed` that need not be written."""
    read: Callable[[Config], dict[str, Any]] = lambda _: {}
    """Return the rest of the architecture out of a config.json.

    Raises:
        ValueError: The config asks for what the decoder cannot do.
    """
    write: Callable[[Architecture], dict[str, Any]] = lambda _: {}
    """Return the rest of a config.json."""
    fused: tuple[Fused, ...] = ()
    """Weights that checkpoints hold together."""
    keys: Mapping[str, str] = field(factory=lambda: KEYS)
    """Our names of what config.json holds under another, for those that every family has."""
    names: tuple[tuple[str, str], ...] = ()
    """Parts of our weights' names, each with the checkpoint's; none for those that are named as ours."""
    tied: bool = False
    """Whether the embeddings are tied where config.json does not say."""
    ffn_factor: int | None = None
    """What the width is multiplied by for that of the feed-forward, where config.json does not say."""
    transposed: frozenset[str] = frozenset()
    """Ends of the names, as checkpoints have them, of layers whose weights lie there the other way round."""


def rope(config: Config, kind: str = "full_attention") -> tuple[float, RopeScaling | None]:
    """Read the base of the rotary frequencies and their stretching, whichever transformers wrote them.

    Args:
        config: Releases before 5 wrote `rope_theta` and `rope_scaling`, later ones `rope_parameters`, which may have
            a part for each kind of layer.
        kind: Of which layers.

    Raises:
        ValueError: They are stretched in a way that is not supported.
    """
    found: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found = found.get(kind, {} if isinstance(next(iter(found.values()), None), Mapping) else found)
    written = found.get("rope_theta", config.get("rope_theta"))
    base = 10_000.0 if written is None else float(written)
    name = found.get("rope_type", found.get("type", "default"))
    if found.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError("rotary embeddings of a part of each head are not supported")
    if name == "default":
        return base, None
    if name == "linear":
        return base, RopeScaling(kind="linear", factor=float(found["factor"]))
    if name == "llama3":
        return base, RopeScaling(
            kind="llama3",
            factor=float(found["factor"]),
            low_freq_factor=float(found["low_freq_factor"]),
            high_freq_factor=float(found["high_freq_factor"]),
            original_max_seq_len=int(found["original_max_position_embeddings"]),
        )
    raise ValueError(f"rotary embeddings of type {name!r} are not supported, only default, linear and llama3")


def written_rope(a: Architecture) -> dict[str, Any]:
    """Write the base of the rotary frequencies and their stretching, for transformers since 4.43."""
    scaling = a.rope_scaling
    if scaling is None:
        return {"rope_theta": a.rope_base, "rope_scaling": None}
    said: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        said |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return {"rope_theta": a.rope_base, "rope_scaling": said}


def windows(config: Config, every: int | None = None) -> dict[str, Any]:
    """Read the sliding window, and which layers it is for.

    Args:
        config: Its `layer_types` say, where there are any.
        every: Of the layers, every n-th sees everything, where the config does not say; None: none does.

    Raises:
        ValueError: The layers alternate in no pattern that the decoder knows.
    """
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if kinds is not None:
        unknown = sorted(set(kinds) - {"sliding_attention", "full_attention"})
        if unknown:
            raise ValueError(f"layers of kind {unknown[0]!r} are not supported")
        full = [i + 1 for i, kind in enumerate(kinds) if kind == "full_attention"]
        if len(full) == len(kinds):
            return {}
        if full:
            every = full[0]
        elif every is not None and every <= len(kinds):  # no layer is full, not even that one
            every = None
        expected = [i for i in range(1, len(kinds) + 1) if every is not None and i % every == 0]
        if full != expected:
            raise ValueError("layer_types alternate in a pattern that is not supported")
    return {} if window is None else {"window": int(window), "full_attention_every": every}


def layer_types(a: Architecture) -> list[str]:
    """Write which layers slide."""
    return ["sliding_attention" if a.slides(i) else "full_attention" for i in range(a.num_layers)]


def _plain(config: Config) -> dict[str, Any]:
    base, scaling = rope(config)
    return {"rope_base": base, "rope_scaling": scaling}


def _with_window(config: Config) -> dict[str, Any]:
    return {**_plain(config), **windows({k: v for k, v in config.items() if k != "layer_types"})}


def _qwen(config: Config) -> dict[str, Any]:
    if config.get("use_sliding_window"):
        raise ValueError(
            "use_sliding_window is true, but sliding layers above max_window_layers are not supported"
        )
    return _plain(config)


def _gemma(config: Config) -> dict[str, Any]:
    said = config.get("hidden_activation")
    if said is None and config["model_type"] == "gemma" and config.get("hidden_act") != "gelu":
        said = config.get("hidden_act")  # Gemma 1's first configs said gelu there and meant its approximation
    if said not in (None, "gelu_pytorch_tanh"):
        raise ValueError(f"the activation is {said!r}, but only 'gelu_pytorch_tanh' is supported")
    return {
        **_plain(config),
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "embed_scale": math.sqrt(config["hidden_size"]),
    }


def _gemma2(config: Config) -> dict[str, Any]:
    return {
        **_gemma(config),
        **windows(config, every=2),
        "norms": "both",
        "attention_scale": config.get("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": config.get("attn_logit_softcapping"),
        "final_softcap": config.get("final_logit_softcapping"),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    local, _ = rope(config, "sliding_attention")
    return {
        **_gemma2(config),
        **windows(config, every=config.get("sliding_window_pattern", 6)),
        "qk_norm": "head",
        "rope_local_base": config.get("rope_local_base_freq", local),
    }


def _write_gemma(_: Architecture) -> dict[str, Any]:
    return {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}


def _write_gemma2(a: Architecture) -> dict[str, Any]:
    scale = a.head_dim**-0.5 if a.attention_scale is None else a.attention_scale
    return {
        **_write_gemma(a),
        "query_pre_attn_scalar": round(scale**-2),  # an int in transformers
        "attn_logit_softcapping": a.attention_softcap,
        "final_logit_softcapping": a.final_softcap,
        "sliding_window": a.window,
        "layer_types": layer_types(a),
    }


def _gpt2(_: Config) -> dict[str, Any]:
    return {
        "rope_base": 10_000.0,  # not used
        "norm_kind": "layer",
        "learned_positions": True,
        "activation": "gelu_tanh",
        "gated": False,
        "qkv_bias": True,
        "o_bias": True,
        "mlp_bias": True,
    }


_NO_BIAS = {"attention_bias": False, "mlp_bias": False}

FAMILIES = {
    "llama": Family(hf_class="LlamaForCausalLM", fixed={"hidden_act": "silu", **_NO_BIAS}, read=_plain),
    "mistral": Family(
        hf_class="MistralForCausalLM",
        fixed={"hidden_act": "silu"},
        read=_with_window,
        write=lambda a: {"sliding_window": a.window},
    ),
    "qwen2": Family(
        hf_class="Qwen2ForCausalLM",
        fixed={"hidden_act": "silu"},
        read=lambda c: {**_qwen(c), "qkv_bias": True},
        write=lambda _: {"use_sliding_window": False},
    ),
    "qwen3": Family(
        hf_class="Qwen3ForCausalLM",
        fixed={"hidden_act": "silu", "attention_bias": False},
        read=lambda c: {**_qwen(c), "qk_norm": "head"},
        write=lambda _: {"use_sliding_window": False},
    ),
    "phi3": Family(
        hf_class="Phi3ForCausalLM",
        fixed={"hidden_act": "silu", "attention_bias": False},
        read=_with_window,
        write=lambda a: {
            "sliding_window": a.window,
            "original_max_position_embeddings": a.max_seq_len,
            "pad_token_id": None,  # its default in transformers may lie outside of the vocabulary
        },
        fused=(
            Fused("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            Fused("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
        ),
    ),
    "olmo2": Family(
        hf_class="Olmo2ForCausalLM",
        fixed={"hidden_act": "silu", "attention_bias": False},
        read=lambda c: {**_plain(c), "qk_norm": "whole", "norms": "post"},
    ),
    "gpt2": Family(
        hf_class="GPT2LMHeadModel",
        fixed={
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        read=_gpt2,
        write=lambda _: {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        tied=True,
        ffn_factor=4,
        fused=(Fused("attn.c_attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),),
        keys={
            "vocab_size": "vocab_size",
            "num_layers": "n_layer",
            "embed_dim": "n_embd",
            "num_heads": "n_head",
            "ffn_dim": "n_inner",
            "max_seq_len": "n_positions",
            "norm_eps": "layer_norm_epsilon",
            "tied_embeddings": "tie_word_embeddings",
        },
        names=(
            ("embed_tokens.", "transformer.wte."),
            ("embed_positions.", "transformer.wpe."),
            ("layers.", "transformer.h."),
            ("input_layernorm.", "ln_1."),
            ("post_attention_layernorm.", "ln_2."),
            ("self_attn.o_proj", "attn.c_proj"),
            ("mlp.up_proj", "mlp.c_fc"),
            ("mlp.down_proj", "mlp.c_proj"),
            ("norm.", "transformer.ln_f."),
        ),
        transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
    ),
    "gemma": Family(
        hf_class="GemmaForCausalLM",
        fixed={"attention_bias": False},
        read=_gemma,
        write=_write_gemma,
        tied=True,
    ),
    "gemma2": Family(
        hf_class="Gemma2ForCausalLM",
        fixed={"attention_bias": False},
        read=_gemma2,
        write=_write_gemma2,
        tied=True,
    ),
    "gemma3_text": Family(
        hf_class="Gemma3ForCausalLM",
        fixed={"attention_bias": False, "use_bidirectional_attention": False},
        ignored=frozenset({"use_bidirectional_attention"}),
        read=_gemma3,
        write=lambda a: {**_write_gemma2(a), "rope_local_base_freq": a.rope_local_base},
        tied=True,
    ),
}
"""The families by `model_type`."""
