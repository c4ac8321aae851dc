"""SmolLM2 models: Llama with grouped-query attention and tied embeddings."""

import os
from typing import Unpack

from torchtune.models._builder import name_builders, size, with_defaults
from torchtune.models.llama2 import llama2, llama2_7b
from torchtune.tokenizers import BaseTokenizer, TokenizerOptions, load_tokenizer

smollm2_135m = size("HuggingFaceTB/SmolLM2-135M-Instruct", llama2_7b)(
    vocab_size=49_152,
    num_layers=30,
    embed_dim=576,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    ffn_dim=1536,
    max_seq_len=8192,
    rope_base=100_000.0,
    tied_embeddings=True,
)
smollm2_360m = size("HuggingFaceTB/SmolLM2-360M", smollm2_135m)(
    num_layers=32, embed_dim=960, num_heads=15, num_kv_heads=5, ffn_dim=2560
)
smollm2_1_7b = size("HuggingFaceTB/SmolLM2-1.7B", smollm2_135m)(
    num_layers=24, embed_dim=2048, num_heads=32, num_kv_heads=32, ffn_dim=8192, rope_base=130_000.0
)
smollm2 = with_defaults(
    llama2,
    smollm2_135m,
    "Build a SmolLM2 model of any size, with random weights; the defaults are the sizes of the 135M model.",
)


def smollm2_tokenizer(path: str | os.PathLike[str], **options: Unpack[TokenizerOptions]) -> BaseTokenizer:
    """Load SmolLM2's tokenizer.

    Args:
        path: The model's tokenizer.json, vocab.json or merges.txt, or their folder.
        **options: Options that all tokenizers accept.
    """
    return load_tokenizer(path, options, split="smollm")


name_builders(__name__)
