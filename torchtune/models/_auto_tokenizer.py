"""The tokenizer of a folder, of whichever kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torchtune.data import Tokenizer
from torchtune.models._found import found_model, result_of
from torchtune.models._hf_tokenizer import HFTokenizer
from torchtune.models._sentencepiece_tokenizer import SentencePieceTokenizer
from torchtune.models._tiktoken import TiktokenTokenizer, is_tiktoken
from torchtune.models._tokenizer_files import VOCABULARIES, has_tokenizer


class AnyTokenizer(Tokenizer, Protocol):
    """A tokenizer that was loaded from a file, of whichever kind."""

    @property
    def unknown_id(self) -> int | None:
        """What stands for text that no token can write; None where there is no such text."""

    def fingerprint(self) -> str:
        """Return a digest of all that encoding depends on."""


def auto_tokenizer(
    path: str, special_tokens: Sequence[str] = (), stop_tokens: Sequence[str] = ()
) -> AnyTokenizer:
    """Load a tokenizer, of the kind that its file is of.

    Args:
        path: A tokenizer.json or tokenizer.model (SentencePiece's, or Llama 3's of tiktoken), or the folder that holds
            one; where both are there, tokenizer.json is taken, as transformers does. An adapter's folder, or a run's,
            stands for the model that `found_model` finds by it; an adapter without a tokenizer has its base's.
        special_tokens: For SentencePiece (`SentencePieceTokenizer`).
        stop_tokens: For SentencePiece.

    Raises:
        FileNotFoundError: there is neither file.
        ValueError: the file is damaged, a special token is missing, or a run has not ended.
    """
    file = Path(path)
    if file.is_dir():
        folder = result_of(file)
        if not has_tokenizer(folder):
            folder = found_model(folder).base
        found = [folder / name for name in VOCABULARIES if (folder / name).is_file()]
        if not found:
            raise FileNotFoundError(f"neither {' nor '.join(VOCABULARIES)} in {folder}")
        file = found[0]
    if file.suffix == ".json" or not file.is_file():
        return HFTokenizer(str(file))
    if is_tiktoken(file):
        return TiktokenTokenizer(str(file))
    return SentencePieceTokenizer(str(file), special_tokens, stop_tokens)
