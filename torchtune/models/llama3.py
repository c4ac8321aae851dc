"""Llama 3, 3.1, 3.2 and 3.3 models: Llama 2 with a larger vocabulary, grouped heads and slower rotary frequencies."""

from typing import Unpack

from attrs import evolve

from torchtune.models.llama2 import LLAMA2_7B, LLAMA2_70B
from torchtune.modules import Decoder, RopeScaling
from torchtune.tokenizers import AnyTokenizer, TokenizerOptions, auto_tokenizer

__all__ = [
    "llama3_1_8b",
    "llama3_1_70b",
    "llama3_1_405b",
    "llama3_2_1b",
    "llama3_2_3b",
    "llama3_3_70b",
    "llama3_8b",
    "llama3_70b",
    "llama3_tokenizer",
]

LLAMA3_8B = evolve(
    LLAMA2_7B, vocab_size=128_256, num_kv_heads=8, ffn_dim=14_336, max_seq_len=8192, rope_base=500_000.0
)
LLAMA3_70B = evolve(LLAMA2_70B, vocab_size=128_256, max_seq_len=8192, rope_base=500_000.0)

STRETCHED = RopeScaling(kind="llama3", factor=8.0)
LLAMA3_1_8B = evolve(LLAMA3_8B, max_seq_len=131_072, rope_scaling=STRETCHED)
LLAMA3_1_70B = evolve(LLAMA3_70B, max_seq_len=131_072, rope_scaling=STRETCHED)
LLAMA3_1_405B = evolve(LLAMA3_1_70B, num_layers=126, embed_dim=16_384, num_heads=128, ffn_dim=53_248)

LLAMA3_2_1B = evolve(
    LLAMA3_1_8B,
    num_layers=16,
    embed_dim=2048,
    head_dim=64,
    ffn_dim=8192,
    tied_embeddings=True,
    rope_scaling=evolve(STRETCHED, factor=32.0),
)
LLAMA3_2_3B = evolve(LLAMA3_2_1B, num_layers=28, embed_dim=3072, num_heads=24, head_dim=128)


def llama3_8b(max_seq_len: int = 8192) -> Decoder:
    """Build Llama 3 8B, with random weights (config.json of meta-llama/Meta-Llama-3-8B).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_8B, max_seq_len=max_seq_len))


def llama3_70b(max_seq_len: int = 8192) -> Decoder:
    """Build Llama 3 70B, with random weights (config.json of meta-llama/Meta-Llama-3-70B).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_70B, max_seq_len=max_seq_len))


def llama3_1_8b(max_seq_len: int = 131_072) -> Decoder:
    """Build Llama 3.1 8B, with random weights (config.json of meta-llama/Llama-3.1-8B).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_1_8B, max_seq_len=max_seq_len))


def llama3_1_70b(max_seq_len: int = 131_072) -> Decoder:
    """Build Llama 3.1 70B, with random weights (config.json of meta-llama/Llama-3.1-70B).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_1_70B, max_seq_len=max_seq_len))


def llama3_1_405b(max_seq_len: int = 131_072) -> Decoder:
    """Build Llama 3.1 405B, with random weights (config.json of meta-llama/Llama-3.1-405B).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_1_405B, max_seq_len=max_seq_len))


def llama3_2_1b(max_seq_len: int = 131_072) -> Decoder:
    """Build Llama 3.2 1B, with random weights (config.json of meta-llama/Llama-3.2-1B).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_2_1B, max_seq_len=max_seq_len))


def llama3_2_3b(max_seq_len: int = 131_072) -> Decoder:
    """Build Llama 3.2 3B, with random weights (config.json of meta-llama/Llama-3.2-3B).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_2_3B, max_seq_len=max_seq_len))


def llama3_3_70b(max_seq_len: int = 131_072) -> Decoder:
    """Build Llama 3.3 70B, with random weights (config.json of meta-llama/Llama-3.3-70B-Instruct).

    Args:
        max_seq_len: Longest sequence, in tokens.
    """
    return Decoder(evolve(LLAMA3_1_70B, max_seq_len=max_seq_len))


def llama3_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load Llama 3's tokenizer.

    Args:
        path: The model's tokenizer.json, Meta's own tokenizer.model, or the folder that holds one.
        **options: Options of every tokenizer.
    """
    return auto_tokenizer(path, **options)
