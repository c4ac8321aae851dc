"""Mistral's tokenizer."""

from torchtune.models._auto_tokenizer import AnyTokenizer, auto_tokenizer


def mistral_tokenizer(path: str) -> AnyTokenizer:
    """Load Mistral's tokenizer.

    Args:
        path: The model's tokenizer.json or tokenizer.model, or the folder that holds one.
    """
    return auto_tokenizer(path)
