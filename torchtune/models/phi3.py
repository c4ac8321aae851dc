"""Phi-3 and Phi-4 models: Llama models whose checkpoints fuse q, k and v, and gate and up, into one weight each."""

import os
from typing import Unpack

from torchtune.models._builder import name_builders, size
from torchtune.models._family import Family, Fused, read_rope_and_window
from torchtune.models.llama2 import llama2_7b
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, load_tokenizer

phi3_mini_4k = size("microsoft/Phi-3-mini-4k-instruct", llama2_7b)(
    family="phi3", vocab_size=32_064, embed_dim=3072, head_dim=96, ffn_dim=8192, window=2047
)
phi4 = size("microsoft/phi-4", phi3_mini_4k)(
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


def phi3_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load Phi-3's or Phi-4's tokenizer.

    Args:
        path: The model's tokenizer.json, tokenizer.model, vocab.json or merges.txt, or their folder.
        **options: Options that all tokenizers accept.
    """
    return load_tokenizer(path, options, split="dbrx")


PHI3_FAMILY = Family(
    model_type="phi3",
    hf_class="Phi3ForCausalLM",
    gguf="phi3",
    # Files contain 0 if the model has no window.
    read_gguf=lambda metadata, _: {"sliding_window": metadata.get("attention.sliding_window") or None},
    fixed={"hidden_act": "silu", "attention_bias": False},
    read=read_rope_and_window,
    write=lambda a: {
        "sliding_window": a.flat()["window"],
        "original_max_position_embeddings": a.max_seq_len,
        "pad_token_id": None,  # the default in transformers may be outside the vocabulary
    },
    fused=(
        Fused("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        Fused("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj")),
    ),
)

name_builders(__name__)
