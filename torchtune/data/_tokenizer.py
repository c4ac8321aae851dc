"""What the rest of the library asks of a tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torchtune.data._template import ChatTemplate


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; `torchtune.models` has the implementations."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this number."""

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text, or None where the model's vocabulary has none."""

    @property
    def eos_id(self) -> int:
        """The id that ends a text."""

    @property
    def pad_id(self) -> int:
        """The id that fills a batch up; it may be the same as another id, padding is never a target."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: the end of the text and, if there is one, the end of a turn."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids by text, of the tokens that `encode_template` finds and `encode` does not."""

    @property
    def content_tokens(self) -> frozenset[str]:
        """The special tokens that messages and plain text may contain; all others are encoded as plain text there."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How this model's conversations are written out, or None for a model that was taught none."""

    def encode(self, text: str, *, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Encode plain text; a special token spelt out in it stays plain text.

        Args:
            text: What to encode, of any length, also empty.
            add_bos: Put `bos_id` first; without effect where it is None.
            add_eos: Put `eos_id` last.
        """

    def encode_template(self, text: str, plain: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Encode text that a chat template rendered: its special tokens become their ids, none are added.

        Args:
            text: What to encode.
            plain: Where parts of it begin and end, in characters, in which special tokens stay text.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids back into text."""
