"""Definition of a model family: its representation in config.json, in checkpoints and in GGUF files.

A family has a class in transformers, config.json values that the decoder requires, and functions that convert its
remaining settings from and to config.json. The keys and their meanings match the configuration classes of transformers
5 (`src/transformers/models/*/configuration_*.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from torchtune.modules import Architecture, RopeScaling, RotarySpec

Config = Mapping[str, Any]
"""Contents of a config.json."""


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
"""Architecture fields, each with its key in the config.json of most families."""


@frozen
class Fused:
    """Several weights that checkpoints store as one, concatenated along the rows."""

    fused: str
    """Suffix of the fused weight's name, such as `self_attn.qkv_proj`."""
    parts: tuple[str, ...]
    """Suffixes of the names of the separate weights, in order."""


@frozen(kw_only=True)
class Family:
    """Definition of one model family."""

    model_type: str
    """`model_type` in config.json."""
    hf_class: str
    """Class name in transformers."""
    gguf: str | None = None
    """Architecture name in GGUF files; None: such files do not exist or declare a different family."""
    read_gguf: Callable[[Config, Config], dict[str, Any]] = lambda _metadata, _sizes: {}
    """Return the remaining config.json entries of a GGUF file.

    The arguments are the file's metadata, without the architecture's name before the keys, and the architecture fields.
    """
    gguf_pairs_adjacent_channels: bool = False
    """Whether GGUF files, like Meta's checkpoints, order the rows of q_proj and k_proj so that jointly rotated channels
    are adjacent."""
    fixed: dict[str, Any] = field(factory=dict)
    """Required values in config.json; the decoder supports no others."""
    ignored: frozenset[str] = frozenset()
    """Keys of `fixed` that are not written."""
    read: Callable[[Config], dict[str, Any]] = lambda _: {}
    """Return the remaining architecture values of a config.json.

    Raises:
        ValueError: The config has a setting that the decoder does not support.
    """
    write: Callable[[Architecture], dict[str, Any]] = lambda _: {}
    """Return the remaining config.json entries of an architecture."""
    fused: tuple[Fused, ...] = ()
    """Weights that checkpoints store as one."""
    keys: Mapping[str, str] = field(factory=lambda: KEYS)
    """Architecture fields that every family has, each with its key in config.json."""
    names: tuple[tuple[str, str], ...] = ()
    """Parts of weight names, each with its counterpart in checkpoints, where they differ."""
    obsolete: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Suffixes of tensor names: tables that old checkpoints contain and that are not loaded."""
    tied: bool = False
    """Whether embeddings are tied if config.json does not specify it."""
    ffn_factor: int | None = None
    """Ratio of the feed-forward width to the model's width if config.json does not specify it."""
    transposed: frozenset[str] = frozenset()
    """Suffixes of the checkpoint names of layers whose weights are stored transposed."""


def rope(config: Config, kind: str = "full_attention") -> tuple[float, RopeScaling | None]:
    """Read the base and the scaling of the rotary frequencies, as written by any release of transformers.

    Args:
        config: Contents of config.json. Releases before 5 wrote `rope_theta` and `rope_scaling`, later ones
            write `rope_parameters`, which may have an entry for each type of layer.
        kind: Type of layer.

    Raises:
        ValueError: The type of scaling is not supported.
    """
    parameters: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    parameters = parameters.get(
        kind, {} if isinstance(next(iter(parameters.values()), None), Mapping) else parameters
    )
    rope_theta = parameters.get("rope_theta", config.get("rope_theta"))
    base = 10_000.0 if rope_theta is None else float(rope_theta)
    name = parameters.get("rope_type", parameters.get("type", "default"))
    if parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError(
            "rotary embeddings on only a part of each head (partial_rotary_factor) are not supported"
        )
    if name == "default":
        return base, None
    if name == "linear":
        return base, RopeScaling(kind="linear", factor=float(parameters["factor"]))
    if name == "llama3":
        return base, RopeScaling(
            kind="llama3",
            factor=float(parameters["factor"]),
            low_freq_factor=float(parameters["low_freq_factor"]),
            high_freq_factor=float(parameters["high_freq_factor"]),
            original_max_seq_len=int(parameters["original_max_position_embeddings"]),
        )
    raise ValueError(
        f"rotary embeddings of type {name!r} are not supported; expected default, linear or llama3"
    )


def write_rope(a: Architecture) -> dict[str, Any]:
    """Return the config.json entries of the rotary frequencies, if there are any (for transformers 4.43 or later)."""
    if not isinstance(a.positions, RotarySpec):
        return {}
    base, scaling = a.positions.rope_base, a.positions.rope_scaling
    if scaling is None:
        return {"rope_theta": base, "rope_scaling": None}
    rope_scaling: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        rope_scaling |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return {"rope_theta": base, "rope_scaling": rope_scaling}


def windows(config: Config, full_every: int | None = None) -> dict[str, Any]:
    """Read the sliding window and the layers that use it.

    Args:
        config: Contents of config.json; its `layer_types` take precedence.
        full_every: Without `layer_types`, every n-th layer has full attention; None: no layer does.

    Raises:
        ValueError: The layers alternate in a pattern that the decoder does not support.
    """
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if kinds is not None:
        unsupported = sorted(set(kinds) - {"sliding_attention", "full_attention"})
        if unsupported:
            raise ValueError(f"layers of kind {unsupported[0]!r} are not supported")
        full = [i + 1 for i, kind in enumerate(kinds) if kind == "full_attention"]
        if len(full) == len(kinds):
            return {}
        if full:
            full_every = full[0]
        elif full_every is not None and full_every <= len(
            kinds
        ):  # no layer has full attention, not even the n-th
            full_every = None
        expected = [i for i in range(1, len(kinds) + 1) if full_every is not None and i % full_every == 0]
        if full != expected:
            raise ValueError("layer_types alternate in a pattern that is not supported")
    return {} if window is None else {"window": int(window), "full_attention_every": full_every}


def layer_types(a: Architecture) -> list[str]:
    """Return `layer_types` of config.json."""
    windows = [a.attention.window_of(i) for i in range(a.num_layers)]
    return ["full_attention" if window is None else "sliding_attention" for window in windows]


def read_rope(config: Config) -> dict[str, Any]:
    """Read the base and the scaling of the rotary frequencies as arguments of `Architecture.from_values`."""
    base, scaling = rope(config)
    return {"rope_base": base, "rope_scaling": scaling}


def read_rope_and_window(config: Config) -> dict[str, Any]:
    """Read the rotary frequencies, and the sliding window of all layers, as arguments of `Architecture.from_values`."""
    return {**read_rope(config), **windows({k: v for k, v in config.items() if k != "layer_types"})}
