"""Text that spells special tokens or media placeholders."""

import re
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from attrs import field, frozen

from torchtune.data._notes import Note, quote_excerpt
from torchtune.data._tokenizer import Tokenizer

MEDIA = re.compile(r"<\|?(?:image|video|audio)(?:_\d+|_pad|_placeholder)?\|?>|\[IMG\]|<img>")
"""Placeholders that datasets use for an image, a video or a sound."""


def special_note(token: str, example: str) -> Note:
    """Return the note on a special token that is encoded as plain text."""
    return Note(
        f"contain the special token {token!r}, which is encoded as plain text (to allow it, set"
        " tokenizer.special_tokens_in_content)",
        example,
    )


def media_note(placeholder: str, example: str) -> Note:
    """Return the note on a media placeholder that is encoded as plain text."""
    return Note(
        f"contain {placeholder!r}, a placeholder for an image, video or sound, which is encoded as plain text",
        example,
    )


def text_notes(tokenizer: Tokenizer, text: str) -> Iterator[Note]:
    """Yield notes on special tokens and media placeholders in plain text."""
    matches = SpecialTokens.for_tokenizer(tokenizer).matches(text)
    for match in {match[0]: match for match in reversed(matches)}.values():
        if match[0] not in tokenizer.content_tokens:
            yield special_note(match[0], quote_excerpt(text, match.start()))
    media = MEDIA.search(text)
    if media is not None:
        yield media_note(media[0], quote_excerpt(text, media.start()))


@frozen(eq=False)
class SpecialTokens:
    """A tokenizer's special tokens, with a cache of encoded short texts, such as generation prompts."""

    ids: dict[str, int]
    all_ids: frozenset[int]
    _pattern: re.Pattern[str] | None
    _encoded: dict[str, list[int]] = field(factory=dict)

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        """Return the special tokens of a tokenizer, cached for the tokenizer's lifetime."""
        try:
            special = _BY_TOKENIZER.get(tokenizer)
            if special is None:
                special = _BY_TOKENIZER[tokenizer] = cls._read(tokenizer)
        except TypeError:  # the tokenizer cannot be a dictionary key
            return cls._read(tokenizer)
        return special

    @classmethod
    def _read(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        ids = dict(tokenizer.special_tokens)
        longest_first = sorted(ids, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first))) if ids else None
        return cls(ids, frozenset(ids.values()), pattern)

    def matches(self, text: str) -> list[re.Match[str]]:
        """Find the special tokens spelled out in text, the longest match at each position."""
        return [] if self._pattern is None else list(self._pattern.finditer(text))

    def encoded(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Encode text with its special tokens; the results for short texts are cached."""
        if len(text) > _MAX_CACHED_LENGTH:
            return tokenizer.encode_template(text)
        if text not in self._encoded and len(self._encoded) < _MAX_CACHED_TEXTS:
            self._encoded[text] = tokenizer.encode_template(text)
        return self._encoded.get(text) or tokenizer.encode_template(text)


_MAX_CACHED_LENGTH = 64
"""Maximum length of a cached text (characters)."""
_MAX_CACHED_TEXTS = 4096

_BY_TOKENIZER: "WeakKeyDictionary[Tokenizer, SpecialTokens]" = WeakKeyDictionary()
