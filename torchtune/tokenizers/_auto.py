"""The tokenizer of a folder, of whichever kind."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from torchtune.runs import locate_model, result_of
from torchtune.tokenizers._any import AnyTokenizer
from torchtune.tokenizers._bpe import MERGES, VOCABULARY, BPETokenizer
from torchtune.tokenizers._files import no_tokenizer, vocabulary_file
from torchtune.tokenizers._hf import HFTokenizer
from torchtune.tokenizers._options import TokenizerOptions
from torchtune.tokenizers._sentencepiece import SentencePieceTokenizer
from torchtune.tokenizers._tekken import TekkenTokenizer, is_tekken
from torchtune.tokenizers._tiktoken import TiktokenTokenizer, is_tiktoken


def auto_tokenizer(
    path: str | os.PathLike[str], special_tokens: Sequence[str] = (), **options: Unpack[TokenizerOptions]
) -> AnyTokenizer:
    """Load a tokenizer, of the kind that its file is of.

    Args:
        path: A tokenizer.json, a tokenizer.model (SentencePiece's, or Llama 3's of tiktoken), Mistral's tekken.json, a
            vocab.json with a merges.txt, or the folder that holds one. Of several in a folder, the first in this order
            is read, as in transformers. For the folder of an adapter or a run, it is the tokenizer of the model that
            `locate_model` finds; an adapter without a tokenizer has its base's.
        special_tokens: For SentencePiece alone: pieces that are special although the model takes them for text.
        **options: Options of every tokenizer.

    Raises:
        FileNotFoundError: there is no tokenizer.
        ValueError: the file is damaged, a special token is missing, an option has no effect, or a run has not ended.
    """
    tokenizer = load_tokenizer(path, options, special_tokens=special_tokens)
    if special_tokens and not isinstance(tokenizer, SentencePieceTokenizer):
        raise ValueError(
            f"special_tokens: without effect, since {path} is not a SentencePiece model but names its special tokens"
            " itself; leave special_tokens out"
        )
    return tokenizer


def load_tokenizer(
    path: str | os.PathLike[str],
    options: TokenizerOptions,
    *,
    special_tokens: Sequence[str] = (),
    split: str | None = None,
) -> AnyTokenizer:
    """Load a tokenizer, of the kind that its file is of, with what only some kinds need.

    Args:
        path: The file of a tokenizer, or the folder that holds one; `auto_tokenizer` has the details.
        options: Options of every tokenizer.
        special_tokens: What a SentencePiece model takes for text although it is special.
        split: How a vocab.json with a merges.txt splits texts (`BPETokenizer`).

    Raises:
        FileNotFoundError: as in `auto_tokenizer`.
        ValueError: as in `auto_tokenizer`.
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
    """Return the file of a tokenizer, given it or a folder."""
    if not path.is_dir():
        return path
    folder = result_of(path)
    file = vocabulary_file(folder)
    if file is None:
        folder = locate_model(folder).base
        file = vocabulary_file(folder)
    if file is None:
        raise no_tokenizer(folder)
    return file
