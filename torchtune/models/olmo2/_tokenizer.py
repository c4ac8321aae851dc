"""OLMo 2's tokenizer."""

from torchtune.models._hf_tokenizer import HFTokenizer


def olmo2_tokenizer(path: str) -> HFTokenizer:
    """Load OLMo 2's tokenizer.

    Args:
        path: The model's tokenizer.json with tokenizer_config.json beside it, or their folder.
    """
    return HFTokenizer(path)
