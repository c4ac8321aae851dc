"""The protocol of tokenizers."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torchtune.data._template import ChatTemplate


@runtime_checkable
class Tokenizer(Protocol):
    """Converts text to token ids and back; the implementations are in `torchtune.tokenizers`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; all ids are below it."""

    @property
    def bos_id(self) -> int | None:
        """The beginning-of-sequence id, or None if the model's vocabulary has no such id."""

    @property
    def eos_id(self) -> int:
        """The end-of-sequence id."""

    @property
    def pad_id(self) -> int:
        """The id that pads batches; it may equal a different special id, since padding is never a target."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: end of sequence and, if there is one, end of turn."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the tokens that `encode_template` recognizes and `encode` does not, by text."""

    @property
    def content_tokens(self) -> frozenset[str]:
        """Special tokens that are recognized in messages and plain text; all others are encoded as plain text."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The model's chat template, or None for a model that was trained without one."""

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encode plain text; special tokens spelled out in it stay plain text.

        Args:
            text: The text, possibly empty.
            add_bos: Prepend `bos_id`; has no effect without a `bos_id`.
            add_eos: Append `eos_id`.
        """

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered; special tokens are recognized, and no token is added.

        Args:
            text: The rendered text.
            plain: Character spans in which special tokens stay plain text.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text."""
