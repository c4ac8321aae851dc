"""Phi-3 and Phi-4 models: Llamas whose checkpoints hold q, k and v as one weight, gate and up as another."""

from attrs import evolve

from torchtune.models.llama2 import LLAMA2_7B
from torchtune.modules import Decoder

PHI3_MINI_4K = evolve(
    LLAMA2_7B, family="phi3", vocab_size=32_064, embed_dim=3072, head_dim=96, ffn_dim=8192, window=2047
)
PHI4 = evolve(
    PHI3_MINI_4K,
    vocab_size=100_352,
    num_layers=40,
    embed_dim=5120,
    num_heads=40,
    num_kv_heads=10,
    head_dim=128,
    ffn_dim=17_920,
    max_seq_len=16_384,
    rope_base=250_000.0,
    window=None,
)


def phi3_mini_4k(max_seq_len: int = 4096) -> Decoder:
    """Build Phi-3 mini for 4,096 tokens, with random weights (config.json of microsoft/Phi-3-mini-4k-instruct).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(PHI3_MINI_4K, max_seq_len=max_seq_len))


def phi4(max_seq_len: int = 16_384) -> Decoder:
    """Build Phi-4, with random weights (config.json of microsoft/phi-4).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(PHI4, max_seq_len=max_seq_len))
