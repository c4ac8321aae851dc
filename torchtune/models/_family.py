"""What a model family is: the facts that tell one from another in config.json, in checkpoints and in GGUF files.

A family is the class that transformers has for it, what its config.json must say for our decoder to be that model, and
how the rest of its architecture is read out of it and written into it. The keys and their meaning are those of the
families' configuration classes in transformers 5 (`src/transformers/models/*/configuration_*.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from torchtune.modules import Architecture, RopeScaling, RotarySpec

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
    """The facts of one family."""

    model_type: str
    """Its name in config.json."""
    hf_class: str
    """The class in transformers."""
    gguf: str | None = None
    """Its architecture's name in GGUF files; None: there are none, or they say that they are of another family."""
    read_gguf: Callable[[Config, Config], dict[str, Any]] = lambda _metadata, _sizes: {}
    """Return the rest of a config.json out of a GGUF file.

    Takes the file's metadata, without the architecture's name before the keys, and our sizes of the model.
    """
    gguf_pairs_neighbours: bool = False
    """Whether GGUF files, as Meta's, have the rows of q_proj and k_proj in an order in which channels that are turned
    together are neighbours."""
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
    unneeded: tuple[str, ...] = ("rotary_emb.inv_freq",)
    """Ends of the names of tables that old checkpoints hold without need."""
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
    parameters: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    parameters = parameters.get(
        kind, {} if isinstance(next(iter(parameters.values()), None), Mapping) else parameters
    )
    written = parameters.get("rope_theta", config.get("rope_theta"))
    base = 10_000.0 if written is None else float(written)
    name = parameters.get("rope_type", parameters.get("type", "default"))
    if parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError("rotary embeddings of a part of each head are not supported")
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
    raise ValueError(f"rotary embeddings of type {name!r} are not supported, only default, linear and llama3")


def written_rope(a: Architecture) -> dict[str, Any]:
    """Write the base of the rotary frequencies and their stretching, for transformers since 4.43; if there are any."""
    if not isinstance(a.positions, RotarySpec):
        return {}
    base, scaling = a.positions.rope_base, a.positions.rope_scaling
    if scaling is None:
        return {"rope_theta": base, "rope_scaling": None}
    said: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        said |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return {"rope_theta": base, "rope_scaling": said}


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
    windows = [a.attention.window_of(i) for i in range(a.num_layers)]
    return ["full_attention" if window is None else "sliding_attention" for window in windows]


def read_rope(config: Config) -> dict[str, Any]:
    """Read the base of the rotary frequencies and their stretching as arguments of `Architecture.from_values`."""
    base, scaling = rope(config)
    return {"rope_base": base, "rope_scaling": scaling}


def read_rope_and_window(config: Config) -> dict[str, Any]:
    """Read the rotary frequencies, and the sliding window of all layers, as arguments of `Architecture.from_values`."""
    return {**read_rope(config), **windows({k: v for k, v in config.items() if k != "layer_types"})}
