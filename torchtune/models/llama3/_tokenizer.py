"""Llama 3's tokenizer."""

from torchtune.models._auto_tokenizer import AnyTokenizer, auto_tokenizer


def llama3_tokenizer(path: str) -> AnyTokenizer:
    """Load Llama 3's tokenizer.

    Args:
        path: The model's tokenizer.json, Meta's own tokenizer.model, or the folder that holds one.
    """
    return auto_tokenizer(path)
