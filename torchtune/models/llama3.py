"""Llama 3, 3.1, 3.2 and 3.3 models: Llama 2 with a larger vocabulary, grouped heads and slower rotary frequencies."""

from typing import Unpack

from attrs import evolve

from torchtune.models._builder import builder
from torchtune.models.llama2 import LLAMA2_7B, LLAMA2_70B
from torchtune.modules import RopeScaling
from torchtune.tokenizers import AnyTokenizer, TokenizerOptions, auto_tokenizer

LLAMA3_8B = LLAMA2_7B.vary(
    vocab_size=128_256, num_kv_heads=8, ffn_dim=14_336, max_seq_len=8192, rope_base=500_000.0
)
LLAMA3_70B = LLAMA2_70B.vary(vocab_size=128_256, max_seq_len=8192, rope_base=500_000.0)

STRETCHED = RopeScaling(kind="llama3", factor=8.0)
LLAMA3_1_8B = LLAMA3_8B.vary(max_seq_len=131_072, rope_scaling=STRETCHED)
LLAMA3_1_70B = LLAMA3_70B.vary(max_seq_len=131_072, rope_scaling=STRETCHED)
LLAMA3_1_405B = LLAMA3_1_70B.vary(num_layers=126, embed_dim=16_384, num_heads=128, ffn_dim=53_248)

LLAMA3_2_1B = LLAMA3_1_8B.vary(
    num_layers=16,
    embed_dim=2048,
    head_dim=64,
    ffn_dim=8192,
    tied_embeddings=True,
    rope_scaling=evolve(STRETCHED, factor=32.0),
)
LLAMA3_2_3B = LLAMA3_2_1B.vary(num_layers=28, embed_dim=3072, num_heads=24, head_dim=128)

llama3_8b = builder(__name__, "llama3_8b", LLAMA3_8B, "meta-llama/Meta-Llama-3-8B")
llama3_70b = builder(__name__, "llama3_70b", LLAMA3_70B, "meta-llama/Meta-Llama-3-70B")
llama3_1_8b = builder(__name__, "llama3_1_8b", LLAMA3_1_8B, "meta-llama/Llama-3.1-8B")
llama3_1_70b = builder(__name__, "llama3_1_70b", LLAMA3_1_70B, "meta-llama/Llama-3.1-70B")
llama3_1_405b = builder(__name__, "llama3_1_405b", LLAMA3_1_405B, "meta-llama/Llama-3.1-405B")
llama3_2_1b = builder(__name__, "llama3_2_1b", LLAMA3_2_1B, "meta-llama/Llama-3.2-1B")
llama3_2_3b = builder(__name__, "llama3_2_3b", LLAMA3_2_3B, "meta-llama/Llama-3.2-3B")
llama3_3_70b = builder(__name__, "llama3_3_70b", LLAMA3_1_70B, "meta-llama/Llama-3.3-70B-Instruct")


def llama3_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load Llama 3's tokenizer.

    Args:
        path: The model's tokenizer.json, Meta's own tokenizer.model, or the folder that holds one.
        **options: Options of every tokenizer.
    """
    return auto_tokenizer(path, **options)
