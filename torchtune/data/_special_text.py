"""Text that looks like something else than text: special tokens spelt out, and marks for images and sounds."""

import re
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from attrs import field, frozen

from torchtune.data._notes import Note, shortened
from torchtune.data._tokenizer import Tokenizer

MEDIA = re.compile(r"<\|?(?:image|video|audio)(?:_\d+|_pad|_placeholder)?\|?>|\[IMG\]|<img>")
"""What datasets write where an image, a video or a sound belongs."""


def special_note(token: str, example: str) -> Note:
    """Say that a special token is encoded as the text that spells it."""
    return Note(
        f"contain the special token {token!r} as text, which is encoded as plain text"
        " (tokenizer.special_tokens_in_content can allow it)",
        example,
    )


def media_note(mark: str, example: str) -> Note:
    """Say that a mark for an image or a sound is learnt as text."""
    return Note(
        f"contain {mark!r}, which stands for an image or a sound and is learnt as plain text", example
    )


def text_notes(tokenizer: Tokenizer, text: str) -> Iterator[Note]:
    """Yield what is encoded of a plain text in a way that its author may not have meant."""
    matches = SpecialTokens.of(tokenizer).matches(text)
    for match in {match[0]: match for match in reversed(matches)}.values():
        if match[0] not in tokenizer.content_tokens:
            yield special_note(match[0], shortened(text, match.start()))
    media = MEDIA.search(text)
    if media is not None:
        yield media_note(media[0], shortened(text, media.start()))


@frozen(eq=False)
class SpecialTokens:
    """A tokenizer's special tokens, and what short texts with them are encoded as, such as what opens an answer."""

    ids: dict[str, int]
    known: frozenset[int]
    """All ids."""
    _pattern: re.Pattern[str] | None
    _encoded: dict[str, list[int]] = field(factory=dict)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        """Take those of a tokenizer, which are kept as long as it is."""
        try:
            special = _OF_TOKENIZERS.get(tokenizer)
            if special is None:
                special = _OF_TOKENIZERS[tokenizer] = cls._read(tokenizer)
        except TypeError:  # the tokenizer cannot be a key
            return cls._read(tokenizer)
        return special

    @classmethod
    def _read(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        ids = dict(tokenizer.special_tokens)
        longest_first = sorted(ids, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first))) if ids else None
        return cls(ids, frozenset(ids.values()), pattern)

    def matches(self, text: str) -> list[re.Match[str]]:
        """Find the special tokens spelt out in a text, the longest at each place."""
        return [] if self._pattern is None else list(self._pattern.finditer(text))

    def encoded(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Encode a text in which all of them are meant; what is short is encoded once."""
        if len(text) > _SHORT:
            return tokenizer.encode_template(text)
        if text not in self._encoded and len(self._encoded) < _MOST:
            self._encoded[text] = tokenizer.encode_template(text)
        return self._encoded.get(text) or tokenizer.encode_template(text)


_SHORT = 64
"""Characters of a text whose tokens are kept, at most."""
_MOST = 4096
"""Texts whose tokens are kept, at most."""

_OF_TOKENIZERS: "WeakKeyDictionary[Tokenizer, SpecialTokens]" = WeakKeyDictionary()
