"""Phi-3's or Phi-4's tokenizer."""

from torchtune.models._auto_tokenizer import AnyTokenizer, auto_tokenizer


def phi3_tokenizer(path: str) -> AnyTokenizer:
    """Load Phi-3's or Phi-4's tokenizer.

    Args:
        path: The model's tokenizer.json or tokenizer.model, or the folder that holds one.
    """
    return auto_tokenizer(path)
