"""SmolLM2 models: Llamas with grouped key-value heads and tied embeddings."""

from typing import Unpack

from torchtune.models._builder import builder
from torchtune.models.llama2 import LLAMA2_7B, llama2
from torchtune.modules import Decoder
from torchtune.tokenizers import AnyTokenizer, TokenizerOptions, load_tokenizer


def smollm2(
    vocab_size: int = 49_152,
    num_layers: int = 30,
    embed_dim: int = 576,
    num_heads: int = 9,
    num_kv_heads: int = 3,
    head_dim: int | None = None,
    ffn_dim: int = 1536,
    max_seq_len: int = 8192,
    rope_base: float = 100_000.0,
    norm_eps: float = 1e-5,
    tied_embeddings: bool = True,
) -> Decoder:
    """Build a SmolLM2 of any size, with random weights; the defaults are those of the 135M model.

    Args:
        vocab_size: Number of token ids.
        num_layers: Number of decoder layers.
        embed_dim: Width of the residual stream.
        num_heads: Query heads per layer.
        num_kv_heads: Key-value heads per layer, a divisor of num_heads.
        head_dim: Width of one head, even; null is embed_dim / num_heads.
        ffn_dim: Inner width of the feed-forward.
        max_seq_len: Longest sequence, in tokens.
        rope_base: Base of the rotary frequencies.
        norm_eps: Added to the mean square inside every norm.
        tied_embeddings: Whether the output head is the embedding table itself.

    Raises:
        ValueError: a size is not above 0, heads do not divide, or a head's width is odd.
    """
    return llama2(
        vocab_size=vocab_size,
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        ffn_dim=ffn_dim,
        max_seq_len=max_seq_len,
        rope_base=rope_base,
        norm_eps=norm_eps,
        tied_embeddings=tied_embeddings,
    )


SMOLLM2_135M = LLAMA2_7B.vary(
    vocab_size=49_152,
    num_layers=30,
    embed_dim=576,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    ffn_dim=1536,
    max_seq_len=8192,
    rope_base=100_000.0,
    tied_embeddings=True,
)
SMOLLM2_360M = SMOLLM2_135M.vary(num_layers=32, embed_dim=960, num_heads=15, num_kv_heads=5, ffn_dim=2560)
SMOLLM2_1_7B = SMOLLM2_135M.vary(
    num_layers=24,
    embed_dim=2048,
    num_heads=32,
    num_kv_heads=32,
    ffn_dim=8192,
    rope_base=130_000.0,
)

smollm2_135m = builder(__name__, "smollm2_135m", SMOLLM2_135M, "HuggingFaceTB/SmolLM2-135M-Instruct")
smollm2_360m = builder(__name__, "smollm2_360m", SMOLLM2_360M, "HuggingFaceTB/SmolLM2-360M")
smollm2_1_7b = builder(__name__, "smollm2_1_7b", SMOLLM2_1_7B, "HuggingFaceTB/SmolLM2-1.7B")


def smollm2_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load SmolLM2's tokenizer.

    Args:
        path: The model's tokenizer.json, vocab.json or merges.txt, or the folder that holds them.
        **options: Options of every tokenizer.
    """
    return load_tokenizer(path, options, split="smollm")
