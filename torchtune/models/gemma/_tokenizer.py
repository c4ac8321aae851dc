"""Gemma's tokenizer, of any release."""

from torchtune.models._auto_tokenizer import AnyTokenizer, auto_tokenizer

_TURNS = ("<start_of_turn>", "<end_of_turn>")
_IMAGES = ("<start_of_image>", "<end_of_image>")
"""Gemma 3's alone."""


def gemma_tokenizer(path: str) -> AnyTokenizer:
    """Load the tokenizer of Gemma 1, 2 or 3.

    Args:
        path: The model's tokenizer.json or tokenizer.model, or the folder that holds one. SentencePiece takes the
            tokens of turns and images for text; here they are special.
    """
    return auto_tokenizer(path, special_tokens=(*_TURNS, *_IMAGES), stop_tokens=("<end_of_turn>",))
