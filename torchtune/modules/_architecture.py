"""What a decoder is, in numbers."""

from typing import Any

from attrs import Attribute, field, frozen
from attrs.validators import gt


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
class Architecture:
    """The sizes and constants that define a decoder, apart from its weights.

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
