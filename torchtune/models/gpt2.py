"""GPT-2 models: layer norms, learned positions, biases, and ungated feed-forward layers."""

import os
from typing import Any, Unpack

from torchtune.models._builder import name_builders, size
from torchtune.models._family import Family, Fused
from torchtune.modules import LayerNormSpec, LearnedSpec
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, load_tokenizer

_GPT2: dict[str, Any] = {
    "norm": LayerNormSpec,
    "positions": LearnedSpec,
    "activation": "gelu_tanh",
    "gated": False,
    "qkv_bias": True,
    "o_bias": True,
    "mlp_bias": True,
}
"""Values that all sizes share."""

gpt2 = size("openai-community/gpt2")(
    **_GPT2,
    family="gpt2",
    vocab_size=50_257,
    num_layers=12,
    embed_dim=768,
    num_heads=12,
    num_kv_heads=12,
    head_dim=64,
    ffn_dim=3072,
    max_seq_len=1024,
    norm_eps=1e-5,
    tied_embeddings=True,
)
gpt2_medium = size("openai-community/gpt2-medium", gpt2)(
    num_layers=24, embed_dim=1024, num_heads=16, num_kv_heads=16, ffn_dim=4096
)
gpt2_large = size("openai-community/gpt2-large", gpt2)(
    num_layers=36, embed_dim=1280, num_heads=20, num_kv_heads=20, ffn_dim=5120
)
gpt2_xl = size("openai-community/gpt2-xl", gpt2)(
    num_layers=48, embed_dim=1600, num_heads=25, num_kv_heads=25, ffn_dim=6400
)


def gpt2_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load GPT-2's tokenizer.

    Args:
        path: The model's tokenizer.json, vocab.json or merges.txt, or their folder.
        **options: Options that all tokenizers accept.
    """
    return load_tokenizer(path, options, split="gpt-2")


GPT2_FAMILY = Family(
    model_type="gpt2",
    hf_class="GPT2LMHeadModel",
    gguf="gpt2",
    fixed={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    read=lambda _: _GPT2,
    write=lambda _: {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    obsolete=(".attn.bias", ".attn.masked_bias"),
    tied=True,
    ffn_factor=4,
    fused=(Fused("attn.c_attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),),
    keys={
        "vocab_size": "vocab_size",
        "num_layers": "n_layer",
        "embed_dim": "n_embd",
        "num_heads": "n_head",
        "ffn_dim": "n_inner",
        "max_seq_len": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "tied_embeddings": "tie_word_embeddings",
    },
    names=(
        ("embed_tokens.", "transformer.wte."),
        ("embed_positions.", "transformer.wpe."),
        ("layers.", "transformer.h."),
        ("input_layernorm.", "ln_1."),
        ("post_attention_layernorm.", "ln_2."),
        ("self_attn.o_proj", "attn.c_proj"),
        ("mlp.up_proj", "mlp.c_fc"),
        ("mlp.down_proj", "mlp.c_proj"),
        ("norm.", "transformer.ln_f."),
    ),
    transposed=frozenset({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}),
)

name_builders(__name__)
