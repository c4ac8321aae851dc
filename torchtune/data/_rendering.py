"""A rendered conversation's token ids, and where characters lie between tokens."""

import bisect
import re
from collections.abc import Iterator, Sequence

from attrs import frozen

from torchtune.data._conversation import Conversation
from torchtune.data._notes import Note, shortened
from torchtune.data._special_text import MEDIA, SpecialTokens, media_note, special_note
from torchtune.data._template import Rendered, Span
from torchtune.data._tokenizer import Tokenizer
from torchtune.data._traced import Origin


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
    notes: tuple[Note, ...]
    """What is encoded in a way that its author may not have meant."""
    _known: SpecialTokens

    @classmethod
    def of(cls, tokenizer: Tokenizer, conversation: Conversation, rendered: Rendered) -> "Rendering":
        """Find the special tokens in a text."""
        written = _Written(conversation, rendered)
        plain: list[Span] = []
        special: list[Span] = []
        notes: dict[str, Note] = {}
        known = SpecialTokens.of(tokenizer)
        for match in known.matches(rendered.text):
            example = written.example(match)
            if not example or match[0] in tokenizer.content_tokens:
                special.append(match.span())
                continue
            plain.append(match.span())
            notes.setdefault(match[0], special_note(match[0], example))
        for match in MEDIA.finditer(rendered.text):
            example = written.example(match)
            if example:
                notes.setdefault(match[0], media_note(match[0], example))
        return cls(
            tokenizer,
            rendered.text,
            rendered.origins,
            tuple(plain),
            tuple(special),
            tuple(notes.values()),
            known,
        )

    def encode(self) -> list[int]:
        """Encode it."""
        return self.tokenizer.encode_template(self.text, self.plain)

    def encode_at(self, borders: Sequence[int]) -> tuple[list[int], list[int]]:
        """Encode it, and find where borders between characters lie between tokens.

        A border within a token cuts it: what comes after is encoded by itself.

        Args:
            borders: Where they are (characters), in ascending order.

        Returns:
            The token ids; and of each border, how many of them come before it.
        """
        tokens = self.encode()
        counts: list[int] = []
        result: list[int] = []
        stretches = list(self._stretches(tokens))
        at = 0
        for start, end, first, last in stretches:
            own = tokens[first:last]
            inside: list[int] = []
            while at < len(borders) and (borders[at] < end or end == len(self.text)):
                inside.append(borders[at])
                at += 1
            if inside:
                own, own_counts = self._cut(own, start, end, inside)
                counts += [len(result) + count for count in own_counts]
            result += own
        return result, counts

    def ends(self, tokens: Sequence[int], starts: Sequence[int], limits: Sequence[int]) -> list[int | None]:
        """Find where answers are over: after the first stop id of each; None where it has none.

        Args:
            tokens: What `encode_at` returned.
            starts: Where the answers begin (tokens).
            limits: Where the message after each begins (characters); a stop id after that is none of the answer's.
        """
        known = self._known.known
        special = [i for i, token in enumerate(tokens) if token in known]
        is_aligned = len(special) == len(self.special)
        character = (
            {i: start for i, (start, _) in zip(special, self.special, strict=False)} if is_aligned else {}
        )
        ends: list[int | None] = []
        for start, until, limit in zip(starts, [*starts, len(tokens)][1:], limits, strict=True):
            stop = next((i for i in range(start, until) if tokens[i] in self.tokenizer.stop_ids), None)
            ends.append(None if stop is None or character.get(stop, -1) >= limit else stop + 1)
        return ends

    def _stretches(self, tokens: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """Yield parts that are encoded independently of each other, each beginning with a special token.

        Yields:
            Where a part begins and ends in the text and among the tokens.
        """
        ids, known = self._known.ids, self._known.known
        marks = [start for start, _ in self.special]
        at = [i for i, token in enumerate(tokens) if token in known]
        if [tokens[i] for i in at] != [ids[self.text[slice(*span)]] for span in self.special]:
            marks, at = [], []  # it is not known which token is which: one part
        yield from zip([0, *marks], [*marks, len(self.text)], [0, *at], [*at, len(tokens)], strict=True)

    def _cut(
        self, tokens: list[int], start: int, end: int, borders: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Find the borders in one such part, and cut the tokens that they lie within."""
        last_cut = at = start
        n_before_cut = count = 0
        counts: list[int] = []
        for border in borders:
            next_tokens = self._rest(start, at, border)
            if tokens[count : count + len(next_tokens)] == next_tokens:  # from one border to the next
                count += len(next_tokens)
            else:
                before = [*tokens[:n_before_cut], *self._rest(start, last_cut, border)]
                count = len(before)
                if tokens[:count] != before:
                    last_cut = border
                    n_before_cut = count
                    tokens = [*before, *self._rest(start, last_cut, end)]
            at = border
            counts.append(count)
        return tokens, counts

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
        plain = []
        if self.plain:
            first, last = (bisect.bisect_left(self.plain, (at, at)) for at in (start, end))
            plain = [(s + shift, e + shift) for s, e in self.plain[first:last] if e <= end]
        text = before + self.text[start:end]
        if plain:
            return self.tokenizer.encode_template(text, plain)
        return self._known.encoded(self.tokenizer, text)


class _Written:
    """The pieces of a text that come from messages and tools."""

    def __init__(self, conversation: Conversation, rendered: Rendered) -> None:
        self._conversation = conversation
        self._pieces = sorted(
            (start, end, i, offset)
            for start, end, i, offset in rendered.origins
            if start < end and conversation.sources[i].part != "role"
        )
        self._starts = [start for start, *_ in self._pieces]

    def example(self, match: re.Match[str]) -> str:
        """Return where in the conversation a match is, and the words around it; nothing if the template wrote it."""
        at = bisect.bisect_left(self._starts, match.end()) - 1
        if at < 0 or self._pieces[at][1] <= match.start():
            return ""
        start, _, i, offset = self._pieces[at]
        source = self._conversation.sources[i]
        return f"{source.path}: {shortened(source.text, max(0, match.start() - start + offset))}"
