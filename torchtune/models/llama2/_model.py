"""Llama 2 models: the predecessor of every family here that is a Llama with other numbers."""

from torchtune.modules import Architecture, Decoder


def llama2(
    vocab_size: int = 32_000,
    num_layers: int = 32,
    embed_dim: int = 4096,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    head_dim: int | None = None,
    ffn_dim: int = 11_008,
    max_seq_len: int = 4096,
    rope_base: float = 10_000.0,
    norm_eps: float = 1e-5,
    tied_embeddings: bool = False,
) -> Decoder:
    """Build a Llama of any size, with random weights; the defaults are those of Llama 2 7B.

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
    if head_dim is None and embed_dim % num_heads:
        raise ValueError(
            f"embed_dim = {embed_dim} is not a multiple of num_heads = {num_heads}; give head_dim itself"
        )
    return Decoder(
        Architecture(
            vocab_size=vocab_size,
            num_layers=num_layers,
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=embed_dim // num_heads if head_dim is None else head_dim,
            ffn_dim=ffn_dim,
            max_seq_len=max_seq_len,
            rope_base=rope_base,
            norm_eps=norm_eps,
            tied_embeddings=tied_embeddings,
        )
    )


def llama2_7b(max_seq_len: int = 4096) -> Decoder:
    """Build Llama 2 7B, with random weights (config.json of meta-llama/Llama-2-7b-hf).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return llama2(max_seq_len=max_seq_len)
