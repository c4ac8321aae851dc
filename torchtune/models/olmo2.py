"""OLMo 2 models: Llama with norms after attention and feed-forward, and query and key norms (arXiv 2501.00656)."""

import os
from typing import Unpack

from torchtune.models._builder import name_builders, size
from torchtune.models._family import Family, read_rope
from torchtune.models.llama2 import llama2_7b
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, load_tokenizer

olmo2_7b = size("allenai/OLMo-2-1124-7B", llama2_7b)(
    family="olmo2",
    qk_norm="whole",
    norm_layout="post",
    vocab_size=100_352,
    rope_base=500_000.0,
    norm_eps=1e-6,
)
olmo2_1b = size("allenai/OLMo-2-0425-1B", olmo2_7b)(
    num_layers=16, embed_dim=2048, num_heads=16, num_kv_heads=16, ffn_dim=8192
)
olmo2_13b = size("allenai/OLMo-2-1124-13B", olmo2_7b)(
    num_layers=40, embed_dim=5120, num_heads=40, num_kv_heads=40, ffn_dim=13_824
)
olmo2_32b = size("allenai/OLMo-2-0325-32B", olmo2_13b)(num_layers=64, num_kv_heads=8, ffn_dim=27_648)


def olmo2_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load OLMo 2's tokenizer.

    Args:
        path: The model's tokenizer.json, vocab.json or merges.txt, or their folder.
        **options: Options that all tokenizers accept.
    """
    return load_tokenizer(path, options, split="dbrx")


OLMO2_FAMILY = Family(
    model_type="olmo2",
    hf_class="Olmo2ForCausalLM",
    gguf="olmo2",
    fixed={"hidden_act": "silu", "attention_bias": False},
    read=lambda c: {**read_rope(c), "qk_norm": "whole", "norm_layout": "post"},
)

name_builders(__name__)
