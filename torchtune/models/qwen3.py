"""Qwen3 dense models: Llama with norms of each query and key head (arXiv 2505.09388, section 2)."""

import os
from typing import Unpack

from torchtune.models._builder import name_builders, size
from torchtune.models._family import Family
from torchtune.models.llama2 import llama2_7b
from torchtune.models.qwen2 import read_qwen
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, load_tokenizer

qwen3_0_6b = size("Qwen/Qwen3-0.6B", llama2_7b)(
    family="qwen3",
    qk_norm="head",
    vocab_size=151_936,
    num_layers=28,
    embed_dim=1024,
    num_heads=16,
    num_kv_heads=8,
    ffn_dim=3072,
    max_seq_len=40_960,
    rope_base=1e6,
    norm_eps=1e-6,
    tied_embeddings=True,
)
qwen3_1_7b = size("Qwen/Qwen3-1.7B", qwen3_0_6b)(embed_dim=2048, ffn_dim=6144)
qwen3_4b = size("Qwen/Qwen3-4B", qwen3_1_7b)(num_layers=36, embed_dim=2560, num_heads=32, ffn_dim=9728)
qwen3_8b = size("Qwen/Qwen3-8B", qwen3_4b)(embed_dim=4096, ffn_dim=12_288, tied_embeddings=False)
qwen3_14b = size("Qwen/Qwen3-14B", qwen3_8b)(num_layers=40, embed_dim=5120, num_heads=40, ffn_dim=17_408)
qwen3_32b = size("Qwen/Qwen3-32B", qwen3_14b)(num_layers=64, num_heads=64, ffn_dim=25_600)


def qwen3_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load Qwen3's tokenizer.

    Args:
        path: The model's tokenizer.json, vocab.json or merges.txt, or their folder.
        **options: Options that all tokenizers accept.
    """
    return load_tokenizer(path, options, split="qwen2")


QWEN3_FAMILY = Family(
    model_type="qwen3",
    hf_class="Qwen3ForCausalLM",
    gguf="qwen3",
    fixed={"hidden_act": "silu", "attention_bias": False},
    read=lambda c: {**read_qwen(c), "qk_norm": "head"},
    write=lambda _: {"use_sliding_window": False},
)

name_builders(__name__)
