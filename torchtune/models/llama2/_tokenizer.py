"""Llama 2's tokenizer."""

from torchtune.models._sentencepiece_tokenizer import SentencePieceTokenizer


def llama2_tokenizer(path: str) -> SentencePieceTokenizer:
    """Load Llama 2's tokenizer.

    Args:
        path: The model's tokenizer.model, or the folder that holds it.
    """
    return SentencePieceTokenizer(path)
