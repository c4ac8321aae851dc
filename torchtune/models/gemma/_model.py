"""Gemma, Gemma 2 and Gemma 3 (text) models: scaled embeddings, offset norms, GEGLU; then soft caps and windows."""

import math

from attrs import evolve

from torchtune.models.llama2 import LLAMA2_7B
from torchtune.modules import Decoder

# arXiv 2403.08295, table 1.
GEMMA_2B = evolve(
    LLAMA2_7B,
    family="gemma",
    activation="gelu_tanh",
    norm_offset=1.0,
    embed_scale=math.sqrt(2048),
    vocab_size=256_000,
    num_layers=18,
    embed_dim=2048,
    num_heads=8,
    num_kv_heads=1,
    head_dim=256,
    ffn_dim=16_384,
    max_seq_len=8192,
    norm_eps=1e-6,
    tied_embeddings=True,
)
GEMMA_7B = evolve(
    GEMMA_2B,
    embed_scale=math.sqrt(3072),
    num_layers=28,
    embed_dim=3072,
    num_heads=16,
    num_kv_heads=16,
    ffn_dim=24_576,
)
# arXiv 2408.00118, table 1 and section 2.
GEMMA2_2B = evolve(
    GEMMA_2B,
    family="gemma2",
    norms="both",
    window=4096,
    full_attention_every=2,
    attention_scale=256**-0.5,
    attention_softcap=50.0,
    final_softcap=30.0,
    embed_scale=math.sqrt(2304),
    num_layers=26,
    embed_dim=2304,
    num_kv_heads=4,
    ffn_dim=9216,
)
GEMMA2_9B = evolve(
    GEMMA2_2B,
    embed_scale=math.sqrt(3584),
    num_layers=42,
    embed_dim=3584,
    num_heads=16,
    num_kv_heads=8,
    ffn_dim=14_336,
)
GEMMA2_27B = evolve(
    GEMMA2_9B,
    attention_scale=144**-0.5,
    embed_scale=math.sqrt(4608),
    num_layers=46,
    embed_dim=4608,
    num_heads=32,
    num_kv_heads=16,
    head_dim=128,
    ffn_dim=36_864,
)
# arXiv 2503.19786, section 2: norms of queries and keys in the place of soft caps, five sliding layers to a full one.
GEMMA3_1B = evolve(
    GEMMA2_2B,
    family="gemma3_text",
    qk_norm="head",
    attention_softcap=None,
    final_softcap=None,
    window=512,
    full_attention_every=6,
    rope_base=1e6,
    rope_local_base=10_000.0,
    embed_scale=math.sqrt(1152),
    vocab_size=262_144,
    embed_dim=1152,
    num_heads=4,
    num_kv_heads=1,
    ffn_dim=6912,
    max_seq_len=32_768,
)
GEMMA3_270M = evolve(GEMMA3_1B, embed_scale=math.sqrt(640), num_layers=18, embed_dim=640, ffn_dim=2048)


def gemma_2b(max_seq_len: int = 8192) -> Decoder:
    """Build Gemma 2B, with random weights (config.json of google/gemma-2b).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(GEMMA_2B, max_seq_len=max_seq_len))


def gemma_7b(max_seq_len: int = 8192) -> Decoder:
    """Build Gemma 7B, with random weights (config.json of google/gemma-7b).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(GEMMA_7B, max_seq_len=max_seq_len))


def gemma2_2b(max_seq_len: int = 8192) -> Decoder:
    """Build Gemma 2 2B, with random weights (config.json of google/gemma-2-2b).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(GEMMA2_2B, max_seq_len=max_seq_len))


def gemma2_9b(max_seq_len: int = 8192) -> Decoder:
    """Build Gemma 2 9B, with random weights (config.json of google/gemma-2-9b).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(GEMMA2_9B, max_seq_len=max_seq_len))


def gemma2_27b(max_seq_len: int = 8192) -> Decoder:
    """Build Gemma 2 27B, with random weights (config.json of google/gemma-2-27b).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(GEMMA2_27B, max_seq_len=max_seq_len))


def gemma3_270m(max_seq_len: int = 32_768) -> Decoder:
    """Build Gemma 3 270M, with random weights (config.json of google/gemma-3-270m).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(GEMMA3_270M, max_seq_len=max_seq_len))


def gemma3_1b(max_seq_len: int = 32_768) -> Decoder:
    """Build Gemma 3 1B, with random weights (config.json of google/gemma-3-1b-pt).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(GEMMA3_1B, max_seq_len=max_seq_len))
