"""Gemma's tokenizer, of any release."""

from typing import Unpack

from torchtune.models._auto_tokenizer import AnyTokenizer, load_tokenizer
from torchtune.models._tokenizer_options import TokenizerOptions, check_options

_TURNS = ("<start_of_turn>", "<end_of_turn>")
_IMAGES = ("<start_of_image>", "<end_of_image>")
"""Gemma 3's alone."""


def gemma_tokenizer(path: str, **options: Unpack[TokenizerOptions]) -> AnyTokenizer:
    """Load the tokenizer of Gemma 1, 2 or 3.

    Args:
        path: The model's tokenizer.json or tokenizer.model, or the folder that holds one. SentencePiece takes the
            tokens of turns and images for text; here they are special. Answers end at `<end_of_turn>` as well.
        **options: Options of every tokenizer.
    """
    check_options(options)
    options["stop_tokens"] = [_TURNS[1], *(options.get("stop_tokens") or ())]
    return load_tokenizer(path, options, special_tokens=(*_TURNS, *_IMAGES))
