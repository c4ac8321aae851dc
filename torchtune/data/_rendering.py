"""A rendered conversation's token ids, and where characters lie between tokens."""

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from attrs import field, frozen

from torchtune.data._conversation import Conversation
from torchtune.data._notes import Note, shortened
from torchtune.data._template import Rendered, Span
from torchtune.data._tokenizer import Tokenizer
from torchtune.data._traced import Origin

MEDIA = re.compile(r"<\|?(?:image|video|audio)(?:_pad|_placeholder)?\|?>|\[IMG\]|<img>")
"""What datasets write where an image, a video or a sound belongs."""


@frozen
class Rendering:
    """A conversation's text, and which of the special tokens in it are meant.

    Special tokens in what people wrote stay text, but for those that the tokenizer allows there.
    """

    tokenizer: Tokenizer
    text: str
    origins: tuple[Origin, ...]
    plain: tuple[Span, ...]
    """Where special tokens are spelt out that are none."""
    special: tuple[Span, ...]
    """Where special tokens are."""
    media: str
    """A mark that stands for an image or a sound, if there is one."""
    _encoded: dict[str, list[int]] = field(factory=dict, eq=False)

    @classmethod
    def of(cls, tokenizer: Tokenizer, conversation: Conversation, rendered: Rendered) -> "Rendering":
        """Find the special tokens in a text."""
        text = rendered.text
        written = sorted(
            (start, end)
            for start, end, i, _ in rendered.origins
            if start < end and conversation.sources[i].part != "role"
        )
        starts, allowed = [start for start, _ in written], tokenizer.content_tokens
        plain, special = list[Span](), list[Span]()
        for match in special_matches(tokenizer)(text):
            i = bisect.bisect_left(starts, match.end()) - 1
            is_written = i >= 0 and written[i][1] > match.start() and match[0] not in allowed
            (plain if is_written else special).append(match.span())
        media = next((m[0] for m in MEDIA.finditer(text) if _within(m.span(), written, starts)), "")
        return cls(tokenizer, text, rendered.origins, tuple(plain), tuple(special), media)

    def notes(self) -> Iterator[Note]:
        """Yield what is encoded in a way that its author may not have meant."""
        for token, (start, end) in {self.text[slice(*span)]: span for span in reversed(self.plain)}.items():
            around = self.text[max(0, start - 20) : end + 20]
            yield Note(
                f"contain the special token {token!r} as text, which is encoded as plain text"
                " (tokenizer.special_tokens_in_content can allow it)",
                shortened(around),
            )
        if self.media:
            yield Note(
                f"contain {self.media!r}, which stands for an image or a sound and is learnt as plain text"
            )

    def encode(self) -> list[int]:
        """Encode it."""
        return self._part(0, len(self.text))

    def encode_at(self, borders: Sequence[int]) -> tuple[list[int], list[int]]:
        """Encode it, and find where borders between characters lie between tokens.

        A border within a token cuts it: what comes after is encoded by itself.

        Args:
            borders: Where they are (characters), in ascending order.

        Returns:
            The token ids; and of each border, how many of them come before it.
        """
        tokens = self.encode()
        found: list[int] = []
        result: list[int] = []
        stretches = list(self._stretches(tokens))
        at = 0
        for start, end, first, last in stretches:
            own = tokens[first:last]
            inside = []
            while at < len(borders) and (borders[at] < end or end == len(self.text)):
                inside.append(borders[at])
                at += 1
            own, counts = self._cut(own, start, end, inside)
            found += [len(result) + count for count in counts]
            result += own
        return result, found

    def _stretches(self, tokens: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """Yield parts that are encoded independently of each other, each beginning with a special token.

        Yields:
            Where a part begins and ends in the text and among the tokens.
        """
        ids = self.tokenizer.special_tokens
        known = set(ids.values())
        marks = [start for start, _ in self.special]
        at = [i for i, token in enumerate(tokens) if token in known]
        if [tokens[i] for i in at] != [ids[self.text[slice(*span)]] for span in self.special]:
            marks, at = [], []  # it is not known which token is which: one part
        starts, firsts = [0, *marks], [0, *at]
        yield from zip(starts, [*marks, len(self.text)], firsts, [*at, len(tokens)], strict=True)

    def _cut(
        self, tokens: list[int], start: int, end: int, borders: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Find the borders in one such part, and cut the tokens that they lie within."""
        cut, kept, found = start, 0, list[int]()
        for border in borders:
            before = [*tokens[:kept], *self._rest(start, cut, border)]
            if tokens[: len(before)] != before:
                cut, kept = border, len(before)
                tokens = [*before, *self._rest(start, cut, end)]
            found.append(len(before))
        return tokens, found

    def _rest(self, first: int, start: int, end: int) -> list[int]:
        """Encode what comes after a border, as part of a text that has begun before."""
        if start == end:
            return []
        if start == first:
            return self._part(start, end)
        # SentencePiece would put a space before it, but not after a line break.
        lead = self.tokenizer.encode_template("\n")
        whole = self._part(start, end, "\n")
        return whole[len(lead) :] if whole[: len(lead)] == lead else self._part(start, end)

    def _part(self, start: int, end: int, before: str = "") -> list[int]:
        shift = len(before) - start
        first = bisect.bisect_left(self.plain, (start, start))
        plain = [(s + shift, e + shift) for s, e in self.plain[first:] if e <= end] if self.plain else []
        text = before + self.text[start:end]
        if plain:
            return self.tokenizer.encode_template(text, plain)
        if text not in self._encoded:  # the words that open an answer come again with each
            self._encoded[text] = self.tokenizer.encode_template(text)
        return self._encoded[text]


def _within(span: Span, written: Sequence[Span], starts: Sequence[int]) -> bool:
    i = bisect.bisect_left(starts, span[1]) - 1
    return i >= 0 and written[i][1] > span[0]


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
