"""Text that looks like something else than text: special tokens spelt out, and marks for images and sounds."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

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
    matches = special_matches(tokenizer)(text)
    for match in {match[0]: match for match in reversed(matches)}.values():
        if match[0] not in tokenizer.content_tokens:
            yield special_note(match[0], shortened(text, match.start()))
    if media := MEDIA.search(text):
        yield media_note(media[0], shortened(text, media.start()))


def special_matches(tokenizer: Tokenizer) -> Callable[[str], list[re.Match[str]]]:
    """Return a function that finds the special tokens spelt out in a text, the longest at each place."""
    return _pattern(tuple(tokenizer.special_tokens))


@lru_cache(maxsize=64)
def _pattern(tokens: tuple[str, ...]) -> Callable[[str], list[re.Match[str]]]:
    if not tokens:
        return lambda _: []
    longest_first = sorted(tokens, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: list(pattern.finditer(text))
