"""Llama 3, 3.1, 3.2 and 3.3 models: Llama 2 with more tokens, grouped-query attention and a larger RoPE base."""

import os
from typing import Unpack

from attrs import evolve

from torchtune.models._builder import name_builders, size
from torchtune.models.llama2 import llama2_7b, llama2_70b
from torchtune.modules import RopeScaling
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, auto_tokenizer

llama3_8b = size("meta-llama/Meta-Llama-3-8B", llama2_7b)(
    vocab_size=128_256, num_kv_heads=8, ffn_dim=14_336, max_seq_len=8192, rope_base=500_000.0
)
llama3_70b = size("meta-llama/Meta-Llama-3-70B", llama2_70b)(
    vocab_size=128_256, max_seq_len=8192, rope_base=500_000.0
)

LLAMA3_ROPE_SCALING = RopeScaling(kind="llama3", factor=8.0)
"""Scaling of the rotary frequencies in Llama 3.1 and 3.3; Llama 3.2 differs only in the factor."""
llama3_1_8b = size("meta-llama/Llama-3.1-8B", llama3_8b)(
    max_seq_len=131_072, rope_scaling=LLAMA3_ROPE_SCALING
)
llama3_1_70b = size("meta-llama/Llama-3.1-70B", llama3_70b)(
    max_seq_len=131_072, rope_scaling=LLAMA3_ROPE_SCALING
)
llama3_3_70b = size("meta-llama/Llama-3.3-70B-Instruct", llama3_1_70b)()
llama3_1_405b = size("meta-llama/Llama-3.1-405B", llama3_1_70b)(
    num_layers=126, embed_dim=16_384, num_heads=128, ffn_dim=53_248
)

llama3_2_1b = size("meta-llama/Llama-3.2-1B", llama3_1_8b)(
    num_layers=16,
    embed_dim=2048,
    head_dim=64,
    ffn_dim=8192,
    tied_embeddings=True,
    rope_scaling=evolve(LLAMA3_ROPE_SCALING, factor=32.0),
)
llama3_2_3b = size("meta-llama/Llama-3.2-3B", llama3_2_1b)(
    num_layers=28, embed_dim=3072, num_heads=24, head_dim=128
)


def llama3_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load Llama 3's tokenizer.

    Args:
        path: The model's tokenizer.json, Meta's tokenizer.model, or its folder.
        **options: Options that all tokenizers accept.
    """
    return auto_tokenizer(path, **options)


name_builders(__name__)
