"""Phi-3's or Phi-4's tokenizer."""

from typing import Unpack

from torchtune.models._auto_tokenizer import AnyTokenizer, load_tokenizer
from torchtune.models._tokenizer_options import TokenizerOptions


def phi3_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load Phi-3's or Phi-4's tokenizer.

    Args:
        path: The model's tokenizer.json, tokenizer.model, vocab.json or merges.txt, or the folder that holds them.
        **options: Options of every tokenizer.
    """
    return load_tokenizer(path, options, split="dbrx")
