"""GPT-2 models: layer norms, learnt positions, biases, and feed-forwards without a gate."""

from attrs import evolve

from torchtune.modules import Architecture, Decoder

GPT2 = Architecture(
    family="gpt2",
    norm_kind="layer",
    learned_positions=True,
    activation="gelu_tanh",
    gated=False,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=True,
    vocab_size=50_257,
    num_layers=12,
    embed_dim=768,
    num_heads=12,
    num_kv_heads=12,
    head_dim=64,
    ffn_dim=3072,
    max_seq_len=1024,
    rope_base=10_000.0,  # not used
    norm_eps=1e-5,
    tied_embeddings=True,
)
GPT2_MEDIUM = evolve(GPT2, num_layers=24, embed_dim=1024, num_heads=16, num_kv_heads=16, ffn_dim=4096)
GPT2_LARGE = evolve(GPT2, num_layers=36, embed_dim=1280, num_heads=20, num_kv_heads=20, ffn_dim=5120)
GPT2_XL = evolve(GPT2, num_layers=48, embed_dim=1600, num_heads=25, num_kv_heads=25, ffn_dim=6400)


def gpt2(max_seq_len: int = 1024) -> Decoder:
    """Build GPT-2 of 124 million parameters, with random weights (config.json of openai-community/gpt2).

    Args:
        max_seq_len: Rows of the table of positions; the checkpoint has 1,024.
    """
    return Decoder(evolve(GPT2, max_seq_len=max_seq_len))


def gpt2_medium(max_seq_len: int = 1024) -> Decoder:
    """Build GPT-2 medium, with random weights (config.json of openai-community/gpt2-medium).

    Args:
        max_seq_len: Rows of the table of positions; the checkpoint has 1,024.
    """
    return Decoder(evolve(GPT2_MEDIUM, max_seq_len=max_seq_len))


def gpt2_large(max_seq_len: int = 1024) -> Decoder:
    """Build GPT-2 large, with random weights (config.json of openai-community/gpt2-large).

    Args:
        max_seq_len: Rows of the table of positions; the checkpoint has 1,024.
    """
    return Decoder(evolve(GPT2_LARGE, max_seq_len=max_seq_len))


def gpt2_xl(max_seq_len: int = 1024) -> Decoder:
    """Build GPT-2 XL, with random weights (config.json of openai-community/gpt2-xl).

    Args:
        max_seq_len: Rows of the table of positions; the checkpoint has 1,024.
    """
    return Decoder(evolve(GPT2_XL, max_seq_len=max_seq_len))
