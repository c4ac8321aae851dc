"""Mistral models: Llama 2 with grouped-query attention and a sliding window (arXiv 2310.06825)."""

import os
from typing import Unpack

from torchtune.models._builder import name_builders, size
from torchtune.models._family import Family, read_rope_and_window
from torchtune.models.llama2 import llama2_7b
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, auto_tokenizer

mistral_7b = size("mistralai/Mistral-7B-v0.1", llama2_7b)(
    family="mistral", num_kv_heads=8, ffn_dim=14_336, max_seq_len=32_768, window=4096
)
mistral_7b_v0_3 = size("mistralai/Mistral-7B-v0.3", mistral_7b)(vocab_size=32_768, rope_base=1e6, window=None)


def mistral_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load Mistral's tokenizer.

    Args:
        path: The model's tokenizer.json, tokenizer.model or tekken.json, or its folder.
        **options: Options that all tokenizers accept.
    """
    return auto_tokenizer(path, **options)


MISTRAL_FAMILY = Family(
    model_type="mistral",
    hf_class="MistralForCausalLM",
    fixed={"hidden_act": "silu"},
    read=read_rope_and_window,
    write=lambda a: {"sliding_window": a.flat()["window"]},
)

name_builders(__name__)
