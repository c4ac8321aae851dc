"""The tokenizer of a folder, of whichever kind."""

from collections.abc import Sequence
from pathlib import Path

from torchtune.models._hf_tokenizer import HFTokenizer
from torchtune.models._sentencepiece_tokenizer import SentencePieceTokenizer
from torchtune.models._tiktoken import TiktokenTokenizer, is_tiktoken
from torchtune.models._tokenizer_files import VOCABULARIES

AnyTokenizer = HFTokenizer | SentencePieceTokenizer | TiktokenTokenizer
"""Every tokenizer that is loaded from a file."""


def auto_tokenizer(
    path: str, special_tokens: Sequence[str] = (), stop_tokens: Sequence[str] = ()
) -> AnyTokenizer:
    """Load a tokenizer, of the kind that its file is of.

    Args:
        path: A tokenizer.json or tokenizer.model (SentencePiece's, or Llama 3's of tiktoken), or the folder that holds
            one; where both are there, tokenizer.json is taken, as transformers does.
        special_tokens: For SentencePiece (`SentencePieceTokenizer`).
        stop_tokens: For SentencePiece.

    Raises:
        FileNotFoundError: there is neither file.
        ValueError: the file is damaged, or a special token is missing.
    """
    file = Path(path)
    if file.is_dir():
        found = [file / name for name in VOCABULARIES if (file / name).is_file()]
        if not found:
            raise FileNotFoundError(f"neither {' nor '.join(VOCABULARIES)} in {file}")
        file = found[0]
    if file.suffix == ".json" or not file.is_file():
        return HFTokenizer(str(file))
    if is_tiktoken(file):
        return TiktokenTokenizer(str(file))
    return SentencePieceTokenizer(str(file), special_tokens, stop_tokens)
