"""Qwen2's or Qwen2.5's tokenizer."""

from typing import Unpack

from torchtune.models._auto_tokenizer import AnyTokenizer, load_tokenizer
from torchtune.models._tokenizer_options import TokenizerOptions


def qwen2_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load Qwen2's or Qwen2.5's tokenizer.

    Args:
        path: The model's tokenizer.json, vocab.json or merges.txt, or the folder that holds them.
        **options: Options of every tokenizer.
    """
    return load_tokenizer(path, options, split="qwen2")
