"""Qwen2's or Qwen2.5's tokenizer."""

from torchtune.models._hf_tokenizer import HFTokenizer


def qwen2_tokenizer(path: str) -> HFTokenizer:
    """Load Qwen2's or Qwen2.5's tokenizer.

    Args:
        path: The model's tokenizer.json with tokenizer_config.json beside it, or their folder.
    """
    return HFTokenizer(path)
