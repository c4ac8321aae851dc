"""Qwen2 and Qwen2.5 models: Llama with query, key and value biases (arXiv 2407.10671, section 2.2)."""

import os
from typing import Any, Unpack

from torchtune.models._builder import name_builders, size
from torchtune.models._family import Config, Family, read_rope
from torchtune.models.llama2 import llama2_7b
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, load_tokenizer

qwen2_0_5b = size("Qwen/Qwen2.5-0.5B or Qwen/Qwen2-0.5B", llama2_7b)(
    family="qwen2",
    qkv_bias=True,
    vocab_size=151_936,
    num_layers=24,
    embed_dim=896,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    ffn_dim=4864,
    max_seq_len=32_768,
    rope_base=1e6,
    norm_eps=1e-6,
    tied_embeddings=True,
)
qwen2_1_5b = size("Qwen/Qwen2-1.5B or Qwen/Qwen2.5-1.5B", qwen2_0_5b)(
    num_layers=28, embed_dim=1536, num_heads=12, head_dim=128, ffn_dim=8960
)
qwen2_5_3b = size("Qwen/Qwen2.5-3B", qwen2_1_5b)(num_layers=36, embed_dim=2048, num_heads=16, ffn_dim=11_008)
qwen2_7b = size("Qwen/Qwen2.5-7B-Instruct or Qwen/Qwen2-7B", qwen2_1_5b)(
    vocab_size=152_064, embed_dim=3584, num_heads=28, num_kv_heads=4, ffn_dim=18_944, tied_embeddings=False
)
qwen2_5_14b = size("Qwen/Qwen2.5-14B-Instruct", qwen2_7b)(
    num_layers=48, embed_dim=5120, num_heads=40, num_kv_heads=8, ffn_dim=13_824, norm_eps=1e-5
)
qwen2_5_32b = size("Qwen/Qwen2.5-32B-Instruct", qwen2_5_14b)(num_layers=64, ffn_dim=27_648)
qwen2_5_72b = size("Qwen/Qwen2.5-72B-Instruct", qwen2_5_32b)(
    num_layers=80, embed_dim=8192, num_heads=64, ffn_dim=29_568
)


def qwen2_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load Qwen2's or Qwen2.5's tokenizer.

    Args:
        path: The model's tokenizer.json, vocab.json or merges.txt, or their folder.
        **options: Options that all tokenizers accept.
    """
    return load_tokenizer(path, options, split="qwen2")


def read_qwen(config: Config) -> dict[str, Any]:
    """Read the rotary frequencies of Qwen2 or Qwen3 as arguments of `Architecture.from_values`.

    Raises:
        ValueError: Some layers have a sliding window.
    """
    if config.get("use_sliding_window"):
        raise ValueError(
            "use_sliding_window is true, but sliding windows in layers above max_window_layers are not supported"
        )
    return read_rope(config)


QWEN2_FAMILY = Family(
    model_type="qwen2",
    hf_class="Qwen2ForCausalLM",
    gguf="qwen2",
    fixed={"hidden_act": "silu"},
    read=lambda c: {**read_qwen(c), "qkv_bias": True},
    write=lambda _: {"use_sliding_window": False},
)

name_builders(__name__)
