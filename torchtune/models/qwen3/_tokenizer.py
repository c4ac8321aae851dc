"""Qwen3's tokenizer."""

from torchtune.models._hf_tokenizer import HFTokenizer


def qwen3_tokenizer(path: str) -> HFTokenizer:
    """Load Qwen3's tokenizer.

    Args:
        path: The model's tokenizer.json with tokenizer_config.json beside it, or their folder.
    """
    return HFTokenizer(path)
