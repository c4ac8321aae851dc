"""Load a tokenizer of any supported kind."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from torchtune.runs import locate_model, weights_folder
from torchtune.tokenizers._base import BaseTokenizer
from torchtune.tokenizers._bpe import MERGES, VOCABULARY, BPETokenizer
from torchtune.tokenizers._files import missing_tokenizer_error, vocabulary_file
from torchtune.tokenizers._hf import HFTokenizer
from torchtune.tokenizers._options import TokenizerOptions
from torchtune.tokenizers._sentencepiece import SentencePieceTokenizer
from torchtune.tokenizers._tekken import TekkenTokenizer, is_tekken
from torchtune.tokenizers._tiktoken import TiktokenTokenizer, is_tiktoken


def auto_tokenizer(
    path: str | os.PathLike[str], special_tokens: Sequence[str] = (), **options: Unpack[TokenizerOptions]
) -> BaseTokenizer:
    """Load a tokenizer; its kind is detected from its file.

    Args:
        path: A tokenizer.json, a tokenizer.model (SentencePiece, or tiktoken as in Llama 3), Mistral's tekken.json, a
            vocab.json with a merges.txt, or a folder with one of these. If a folder has several, the first in this
            order is read, as in transformers. For the folder of an adapter or a run, the tokenizer of the model that
            `locate_model` finds is loaded; an adapter without a tokenizer uses its base model's tokenizer.
        special_tokens: SentencePiece only: pieces that are special even though the model treats them as text.
        **options: Options that all tokenizers accept.

    Raises:
        FileNotFoundError: The tokenizer does not exist.
        ValueError: The file is damaged, a special token is missing, an option has no effect, or a run has not ended.
    """
    tokenizer = load_tokenizer(path, options, special_tokens=special_tokens)
    if special_tokens and not isinstance(tokenizer, SentencePieceTokenizer):
        raise ValueError(
            f"special_tokens has no effect, because {path} is not a SentencePiece model and declares its special"
            " tokens itself; remove special_tokens"
        )
    return tokenizer


def load_tokenizer(
    path: str | os.PathLike[str],
    options: TokenizerOptions,
    *,
    special_tokens: Sequence[str] = (),
    split: str | None = None,
) -> BaseTokenizer:
    """Load a tokenizer, with options that only some kinds of tokenizer accept.

    Args:
        path: A tokenizer's file or folder, as in `auto_tokenizer`.
        options: Options that all tokenizers accept.
        special_tokens: As in `auto_tokenizer`.
        split: How a vocab.json with a merges.txt splits text into words (`BPETokenizer`).

    Raises:
        FileNotFoundError: As in `auto_tokenizer`.
        ValueError: As in `auto_tokenizer`.
    """
    file = _file(Path(path))
    if is_tekken(file):
        return TekkenTokenizer(str(file), **options)
    if file.name in (VOCABULARY, MERGES):
        return BPETokenizer(str(file), split, **options)
    if file.suffix == ".json" or not file.is_file():
        return HFTokenizer(str(file), **options)
    if is_tiktoken(file):
        return TiktokenTokenizer(str(file), **options)
    return SentencePieceTokenizer(str(file), special_tokens, **options)


def _file(path: Path) -> Path:
    """Return the vocabulary file of a tokenizer, given the file or its folder."""
    if not path.is_dir():
        return path
    folder = weights_folder(path)
    file = vocabulary_file(folder)
    if file is None:
        folder = locate_model(folder).base
        file = vocabulary_file(folder)
    if file is None:
        raise missing_tokenizer_error(folder)
    return file
