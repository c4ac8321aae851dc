"""Llama 2 models, from which the other Llama-like families are derived."""

import os
from typing import Unpack

from torchtune.models._builder import default_arguments, name_builders, size
from torchtune.models._family import Family, read_rope
from torchtune.modules import Architecture, Decoder
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, auto_tokenizer


def llama2(
    vocab_size: int = 32_000,
    num_layers: int = 32,
    embed_dim: int = 4096,
    num_heads: int = 32,
    num_kv_heads: int = 32,
    head_dim: int | None = None,
    ffn_dim: int = 11_008,
    max_seq_len: int = 4096,
    rope_base: float = 10_000.0,
    norm_eps: float = 1e-5,
    tied_embeddings: bool = False,
) -> Decoder:
    """Build a Llama model of any size, with random weights; the defaults are the sizes of Llama 2 7B.

    Args:
        vocab_size: Number of token ids.
        num_layers: Number of decoder layers.
        embed_dim: Width of the residual stream.
        num_heads: Number of query heads per layer.
        num_kv_heads: Number of key-value heads per layer, a divisor of num_heads.
        head_dim: Width of one head, even; null: embed_dim / num_heads.
        ffn_dim: Inner width of the feed-forward layers.
        max_seq_len: Maximum sequence length (tokens).
        rope_base: Base of the rotary frequencies.
        norm_eps: Constant added to the mean square in every norm.
        tied_embeddings: Whether the output head is the embedding table.

    Raises:
        ValueError: A size is not above 0, num_kv_heads does not divide num_heads, num_heads does not divide embed_dim,
            or the width of a head is odd.
    """
    if head_dim is None and embed_dim % num_heads:
        raise ValueError(
            f"embed_dim = {embed_dim} is not a multiple of num_heads = {num_heads}; set head_dim"
        )
    return Decoder(
        Architecture.from_values(
            vocab_size=vocab_size,
            num_layers=num_layers,
            embed_dim=embed_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=embed_dim // num_heads if head_dim is None else head_dim,
            ffn_dim=ffn_dim,
            max_seq_len=max_seq_len,
            rope_base=rope_base,
            norm_eps=norm_eps,
            tied_embeddings=tied_embeddings,
        )
    )


llama2_7b = size("meta-llama/Llama-2-7b-hf")(**default_arguments(llama2), head_dim=128)
llama2_13b = size("meta-llama/Llama-2-13b-hf", llama2_7b)(
    num_layers=40, embed_dim=5120, num_heads=40, num_kv_heads=40, ffn_dim=13_824
)
llama2_70b = size("meta-llama/Llama-2-70b-hf", llama2_7b)(
    num_layers=80, embed_dim=8192, num_heads=64, num_kv_heads=8, ffn_dim=28_672
)
code_llama_7b = size("codellama/CodeLlama-7b-hf", llama2_7b)(
    vocab_size=32_016, max_seq_len=16_384, rope_base=1e6
)
tiny_llama_1_1b = size("TinyLlama/TinyLlama-1.1B-Chat-v1.0", llama2_7b)(
    num_layers=22, embed_dim=2048, num_kv_heads=4, head_dim=64, ffn_dim=5632, max_seq_len=2048
)


def llama2_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load Llama 2's tokenizer.

    Args:
        path: The model's tokenizer.json or tokenizer.model, or its folder.
        **options: Options that all tokenizers accept.
    """
    return auto_tokenizer(path, **options)


LLAMA_FAMILY = Family(
    model_type="llama",
    hf_class="LlamaForCausalLM",
    gguf="llama",
    gguf_pairs_adjacent_channels=True,
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    read=read_rope,
)

name_builders(__name__)
