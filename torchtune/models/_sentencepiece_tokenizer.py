"""Tokenizers of the SentencePiece kind: a tokenizer.model."""

import re
from collections.abc import Sequence

from torchtune.data import ChatTemplate
from torchtune.models._tokenizer_config import TokenizerConfig, tokenizer_file


class SentencePieceTokenizer:
    """A SentencePiece model (arXiv 1808.06226), as Llama 2 has.

    Args:
        path: A tokenizer.model, or the folder that holds it. A tokenizer_config.json beside it may hold
            a chat template.

    Raises:
        FileNotFoundError: there is no tokenizer.model.
        ValueError: it is damaged, or has no end-of-sequence token.
    """

    def __init__(self, path: str) -> None:
        from sentencepiece import SentencePieceProcessor

        file = tokenizer_file(path, "tokenizer.model")
        config = TokenizerConfig.beside(file)
        self._model = SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(file.read_bytes())
        except RuntimeError as error:
            raise ValueError(f"{file} is not a SentencePiece model, or is damaged; fetch it again") from error
        if self._model.eos_id() < 0:
            raise ValueError(f"{file} has no end-of-sequence token")
        self.vocab_size: int = self._model.vocab_size()
        self.eos_id: int = self._model.eos_id()
        self.bos_id: int | None = self._model.bos_id() if self._model.bos_id() >= 0 else None
        self.pad_id: int = self._model.pad_id() if self._model.pad_id() >= 0 else self.eos_id
        self.stop_ids: frozenset[int] = config.stop_ids() | {self.eos_id}
        self.chat_template: ChatTemplate | None = config.chat_template()

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encode plain text; a special token spelt out in it stays plain text.

        Args:
            text: What to encode.
            add_bos: Put `bos_id` first; without effect where it is None.
            add_eos: Put `eos_id` last.
        """
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        return [*bos, *self._model.encode(text), *([self.eos_id] if add_eos else [])]

    def encode_template(self, text: str) -> list[int]:
        """Encode text that a chat template rendered: its special tokens become their ids, none are added.

        What stands between two of them is encoded as a text of its own, which SentencePiece begins with
        a space; Llama 2 was taught its conversations so.
        """
        special = {self._model.id_to_piece(i): i for i in (self.bos_id, self.eos_id) if i is not None}
        ids: list[int] = []
        for part in re.split(f"({'|'.join(map(re.escape, special))})", text):
            ids += [special[part]] if part in special else self._model.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text, leaving special tokens out."""
        text: str = self._model.decode(list(ids))
        return text
