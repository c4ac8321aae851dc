"""Encode a rendered conversation, and map character positions to token positions."""

import bisect
import re
from collections.abc import Iterator, Sequence

from attrs import frozen

from torchtune.data._conversation import Conversation
from torchtune.data._notes import Note, quote_excerpt
from torchtune.data._special_text import MEDIA, SpecialTokens, media_note, special_note
from torchtune.data._template import Rendered, Span
from torchtune.data._tokenizer import Tokenizer
from torchtune.data._traced import Origin


@frozen
class Rendering:
    """A conversation's text, and the special tokens in it.

    Special tokens in message text stay plain text, except those that the tokenizer allows in content.
    """

    tokenizer: Tokenizer
    text: str
    origins: tuple[Origin, ...]
    plain: tuple[Span, ...]
    """Spans that spell a special token but are encoded as plain text."""
    special: tuple[Span, ...]
    """Spans of special tokens."""
    notes: tuple[Note, ...]
    """Notes on text that is encoded in a way that its author may not expect."""
    _special_tokens: SpecialTokens

    @classmethod
    def build(cls, tokenizer: Tokenizer, conversation: Conversation, rendered: Rendered) -> "Rendering":
        """Find the special tokens in a rendered text."""
        sources = _SourceSpans(conversation, rendered)
        plain: list[Span] = []
        special: list[Span] = []
        notes: dict[str, Note] = {}
        special_tokens = SpecialTokens.for_tokenizer(tokenizer)
        for match in special_tokens.matches(rendered.text):
            example = sources.example(match)
            if not example or match[0] in tokenizer.content_tokens:
                special.append(match.span())
                continue
            plain.append(match.span())
            notes.setdefault(match[0], special_note(match[0], example))
        for match in MEDIA.finditer(rendered.text):
            example = sources.example(match)
            if example:
                notes.setdefault(match[0], media_note(match[0], example))
        return cls(
            tokenizer,
            rendered.text,
            rendered.origins,
            tuple(plain),
            tuple(special),
            tuple(notes.values()),
            special_tokens,
        )

    def encode(self) -> list[int]:
        """Encode the text."""
        return self.tokenizer.encode_template(self.text, self.plain)

    def encode_at(self, boundaries: Sequence[int]) -> tuple[list[int], list[int]]:
        """Encode the text, with token boundaries at given characters.

        A boundary within a token splits it: the text after the boundary is encoded separately.

        Args:
            boundaries: Character positions, in ascending order.

        Returns:
            The token ids, and the number of tokens before each boundary.
        """
        tokens = self.encode()
        counts: list[int] = []
        result: list[int] = []
        segments = list(self._segments(tokens))
        i = 0
        for start, end, first, last in segments:
            segment = tokens[first:last]
            inside: list[int] = []
            while i < len(boundaries) and (boundaries[i] < end or end == len(self.text)):
                inside.append(boundaries[i])
                i += 1
            if inside:
                segment, segment_counts = self._split(segment, start, end, inside)
                counts += [len(result) + count for count in segment_counts]
            result += segment
        return result, counts

    def ends(self, tokens: Sequence[int], starts: Sequence[int], limits: Sequence[int]) -> list[int | None]:
        """Return the token index at which each answer ends: after its first stop token, or None without one.

        Args:
            tokens: The tokens that `encode_at` returned.
            starts: The token index at which each answer begins.
            limits: The character index at which the next message begins; a later stop token is not part of the answer.
        """
        special_ids = self._special_tokens.all_ids
        special = [i for i, token in enumerate(tokens) if token in special_ids]
        is_aligned = len(special) == len(self.special)
        character = (
            {i: start for i, (start, _) in zip(special, self.special, strict=False)} if is_aligned else {}
        )
        ends: list[int | None] = []
        for start, next_start, limit in zip(starts, [*starts, len(tokens)][1:], limits, strict=True):
            stop = next((i for i in range(start, next_start) if tokens[i] in self.tokenizer.stop_ids), None)
            ends.append(None if stop is None or character.get(stop, -1) >= limit else stop + 1)
        return ends

    def _segments(self, tokens: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """Yield segments that are encoded independently of each other; all but the first begin with a special token.

        Yields:
            The start and end of a segment in the text (characters) and among the tokens.
        """
        ids, special_ids = self._special_tokens.ids, self._special_tokens.all_ids
        starts = [start for start, _ in self.special]
        indices = [i for i, token in enumerate(tokens) if token in special_ids]
        if [tokens[i] for i in indices] != [ids[self.text[slice(*span)]] for span in self.special]:
            starts, indices = [], []  # spans and tokens cannot be matched, so the text is one segment
        yield from zip(
            [0, *starts], [*starts, len(self.text)], [0, *indices], [*indices, len(tokens)], strict=True
        )

    def _split(
        self, tokens: list[int], start: int, end: int, boundaries: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Locate boundaries in a segment, and split the tokens that contain one."""
        last_split = previous = start
        n_before_split = count = 0
        counts: list[int] = []
        for boundary in boundaries:
            next_tokens = self._encode_from(start, previous, boundary)
            if tokens[count : count + len(next_tokens)] == next_tokens:  # no token spans the boundary
                count += len(next_tokens)
            else:
                head = [*tokens[:n_before_split], *self._encode_from(start, last_split, boundary)]
                count = len(head)
                if tokens[:count] != head:
                    last_split = boundary
                    n_before_split = count
                    tokens = [*head, *self._encode_from(start, last_split, end)]
            previous = boundary
            counts.append(count)
        return tokens, counts

    def _encode_from(self, first: int, start: int, end: int) -> list[int]:
        """Encode part of a segment that begins at `first`, as a continuation of the text before it."""
        if start == end:
            return []
        if start == first:
            return self._part(start, end)
        # SentencePiece would insert a space at the beginning of the text, but not after a line break.
        line_break = self.tokenizer.encode_template("\n")
        tokens = self._part(start, end, "\n")
        if tokens[: len(line_break)] == line_break:
            return tokens[len(line_break) :]
        return self._part(start, end)

    def _part(self, start: int, end: int, prefix: str = "") -> list[int]:
        shift = len(prefix) - start
        plain = []
        if self.plain:
            first, last = (bisect.bisect_left(self.plain, (i, i)) for i in (start, end))
            plain = [(s + shift, e + shift) for s, e in self.plain[first:last] if e <= end]
        text = prefix + self.text[start:end]
        if plain:
            return self.tokenizer.encode_template(text, plain)
        return self._special_tokens.encoded(self.tokenizer, text)


class _SourceSpans:
    """The spans of a rendered text that come from messages and tools."""

    def __init__(self, conversation: Conversation, rendered: Rendered) -> None:
        self._conversation = conversation
        self._spans = sorted(
            (start, end, i, offset)
            for start, end, i, offset in rendered.origins
            if start < end and conversation.sources[i].part != "role"
        )
        self._starts = [start for start, *_ in self._spans]

    def example(self, match: re.Match[str]) -> str:
        """Return the path of a match and the text around it, or an empty string if the template added the match."""
        last = bisect.bisect_left(self._starts, match.end()) - 1
        if last < 0 or self._spans[last][1] <= match.start():
            return ""
        start, _, i, offset = self._spans[last]
        source = self._conversation.sources[i]
        return f"{source.path}: {quote_excerpt(source.text, max(0, match.start() - start + offset))}"
