"""What a decoder is, in numbers."""

from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import gt, optional


def _is_divisor_of_num_heads(architecture: "Architecture", attribute: "Attribute[int]", value: int) -> None:
    if architecture.num_heads % value:
        raise ValueError(
            f"{attribute.name} = {value} does not divide num_heads = {architecture.num_heads};"
            " every key-value head serves the same number of query heads"
        )


def _is_even(_: Any, attribute: "Attribute[int]", value: int) -> None:  # attrs passes the instance.
    if value % 2:
        raise ValueError(f"{attribute.name} = {value} is odd; rotary embeddings turn pairs of numbers")


@frozen(kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for sequences longer than those of pre-training.

    `linear` divides every frequency by the factor (arXiv 2306.15595). `llama3` divides the slow ones, leaves the fast
    ones, and goes from one to the other in between (Llama 3.1's `apply_scaling`, and `rope_type: llama3` in its
    config.json).
    """

    kind: Literal["linear", "llama3"]
    """Which of the two."""
    factor: float = field(validator=gt(0))
    """What slow frequencies are divided by."""
    low_freq_factor: float = field(default=1.0, validator=gt(0))
    """Frequencies that turn fewer times than this over the original length are slow."""
    high_freq_factor: float = field(default=4.0, validator=gt(0))
    """Frequencies that turn more often than this over the original length are fast."""
    original_max_seq_len: int = field(default=8192, validator=gt(0))
    """Longest sequence of pre-training, in tokens."""


@frozen(kw_only=True)
class Architecture:
    """The sizes and constants that define a decoder, apart from its weights; what is left out is a Llama's.

    A model keeps its own, so that whoever saves it knows what to write into its config.json.
    """

    family: str = "llama"
    """The kind of model that others know it as: `model_type` in a Hugging Face config.json."""
    vocab_size: int = field(validator=gt(0))
    """Number of token ids."""
    num_layers: int = field(validator=gt(0))
    """Number of decoder layers."""
    embed_dim: int = field(validator=gt(0))
    """Width of the residual stream."""
    num_heads: int = field(validator=gt(0))
    """Query heads per layer."""
    num_kv_heads: int = field(validator=[gt(0), _is_divisor_of_num_heads])
    """Key-value heads per layer; fewer than `num_heads` is grouped-query attention (arXiv 2305.13245)."""
    head_dim: int = field(validator=[gt(0), _is_even])
    """Width of one head."""
    ffn_dim: int = field(validator=gt(0))
    """Inner width of the feed-forward."""
    max_seq_len: int = field(validator=gt(0))
    """Longest sequence, in tokens."""
    rope_base: float = field(validator=gt(0))
    """Base of the rotary frequencies (theta in arXiv 2104.09864, section 3.2.2)."""
    norm_eps: float = field(validator=gt(0))
    """Added to the mean square inside every norm."""
    tied_embeddings: bool
    """Whether the output head is the embedding table itself."""

    activation: Literal["silu", "gelu_tanh"] = "silu"
    """What the gate of the feed-forward passes through (arXiv 2002.05202)."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias."""
    qk_norm: Literal["head", "whole"] | None = None
    """Norm of queries and keys before they are turned: of each head, or of all heads together; None: none."""
    norms: Literal["pre", "post", "both"] = "pre"
    """Where a layer's norms stand: before attention and feed-forward, behind them, or both."""
    norm_offset: float = 0.0
    """Added to the weight of every norm; 1 where checkpoints hold what it differs from one by."""
    embed_scale: float = 1.0
    """What embeddings are multiplied by."""
    attention_scale: float | None = field(default=None, validator=optional(gt(0)))
    """What the products of queries and keys are multiplied by; None: head_dim ** -0.5."""
    attention_softcap: float | None = field(default=None, validator=optional(gt(0)))
    """Bound c of attention scores s, which become c tanh(s / c) (arXiv 2408.00118, section 2); None: none."""
    final_softcap: float | None = field(default=None, validator=optional(gt(0)))
    """The same for logits."""
    window: int | None = field(default=None, validator=optional(gt(0)))
    """Keys that a query of a sliding layer sees, its own among them; None: no layer slides."""
    full_attention_every: int | None = field(default=None, validator=optional(gt(0)))
    """Of the layers, counted from 1, every n-th sees everything although there is a window; None: none does."""
    rope_scaling: RopeScaling | None = None
    """How rotary frequencies are stretched; None: not at all."""
    norm_kind: Literal["rms", "layer"] = "rms"
    """RMS norms (arXiv 1910.07467), or layer norms with a bias (arXiv 1607.06450)."""
    learned_positions: bool = False
    """Whether a table of learnt positions is added to the embeddings, in the place of rotations."""
    gated: bool = True
    """Whether the feed-forward has a gate."""
    o_bias: bool = False
    """Whether attention's output has a bias."""
    mlp_bias: bool = False
    """Whether the feed-forward's layers have biases."""
    rope_local_base: float | None = field(default=None, validator=optional(gt(0)))
    """Base of the rotary frequencies of sliding layers, which are never stretched; None: `rope_base`."""

    def slides(self, layer: int) -> bool:
        """Tell whether a layer, counted from 0, sees through the window only."""
        every = self.full_attention_every
        return self.window is not None and (every is None or (layer + 1) % every != 0)
