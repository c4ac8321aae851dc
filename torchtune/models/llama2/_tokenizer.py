"""Llama 2's tokenizer."""

from typing import Unpack

from torchtune.models._auto_tokenizer import AnyTokenizer, auto_tokenizer
from torchtune.models._tokenizer_options import TokenizerOptions


def llama2_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load Llama 2's tokenizer.

    Args:
        path: The model's tokenizer.json or tokenizer.model, or the folder that holds one.
        **options: Options of every tokenizer.
    """
    return auto_tokenizer(path, **options)
