"""Mistral models: Llama 2 with grouped heads and a sliding window (arXiv 2310.06825)."""

from typing import Unpack

from torchtune.models._builder import builder
from torchtune.models._family import Family, read_rope_and_window
from torchtune.models.llama2 import LLAMA2_7B
from torchtune.tokenizers import AnyTokenizer, TokenizerOptions, auto_tokenizer

MISTRAL_7B = LLAMA2_7B.vary(family="mistral", num_kv_heads=8, ffn_dim=14_336, max_seq_len=32_768, window=4096)
MISTRAL_7B_V0_3 = MISTRAL_7B.vary(vocab_size=32_768, rope_base=1e6, window=None)

mistral_7b = builder(__name__, "mistral_7b", MISTRAL_7B, "mistralai/Mistral-7B-v0.1")
mistral_7b_v0_3 = builder(__name__, "mistral_7b_v0_3", MISTRAL_7B_V0_3, "mistralai/Mistral-7B-v0.3")


def mistral_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load Mistral's tokenizer.

    Args:
        path: The model's tokenizer.json, tokenizer.model or tekken.json, or the folder that holds one.
        **options: Options of every tokenizer.
    """
    return auto_tokenizer(path, **options)


MISTRAL_FAMILY = Family(
    model_type="mistral",
    hf_class="MistralForCausalLM",
    fixed={"hidden_act": "silu"},
    read=read_rope_and_window,
    write=lambda a: {"sliding_window": a.flat()["window"]},
)
