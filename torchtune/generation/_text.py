"""Incremental decoding of an answer's tokens."""

from collections.abc import Generator, Iterable, Iterator, Sequence

from torchtune.data import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """Decodes an answer's tokens incrementally; each piece of text is returned once it can no longer change.

    A character may consist of several tokens, and a token's text may depend on the tokens before it: at the beginning
    of a text, where SentencePiece drops a space, and within a character. Therefore, each new token is decoded together
    with the tokens of the last piece; decoding the whole answer is not necessary.

    The text ends before the stop string that is completed first; if several are completed together, it ends before the
    longest one. Stop strings are searched for in the text, not in the tokens, and text that may begin a stop string is
    held back.

    The joined pieces equal the text of all tokens decoded at once, with one exception: if invalid bytes follow
    characters that are also encoded as bytes, some tokenizers would replace these characters as well.

    Args:
        tokenizer: The tokenizer.
        stop: Stop strings.
        after: The last tokens of the text that the answer continues, so that a space at the boundary is not dropped.

    Raises:
        ValueError: A stop string is empty.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        if "" in stop:
            raise ValueError("stop: a stop string is empty, which would end every answer at once; remove it")
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tail = list(after)
        # The number of tokens in the tail whose text was already returned, and their text.
        self._num_emitted = len(self._tail)
        self._emitted = tokenizer.decode(self._tail) if self._tail else ""
        self._held = ""
        self.is_finished = False
        """Whether a stop string has ended the text; no token may be added after that."""

    def add(self, token: int) -> str:
        """Add the next token, and return the text that can no longer change."""
        self._tail.append(token)
        text = self._tokenizer.decode(self._tail)
        if text.endswith(_REPLACEMENT) or text == self._emitted:
            return ""
        last = self._tail[self._num_emitted :]
        piece = self._after_emitted(text, last)
        last_text = self._tokenizer.decode(last)
        # If the last tokens decode to the same text on their own, except for a leading space, which was emitted, they
        # are enough context for the next token.
        if last_text and text.endswith(last_text):
            self._tail = last
            text = last_text
        self._num_emitted = len(self._tail)
        self._emitted = text
        return self._until_stop(piece)

    def end(self) -> str:
        """Return the text that is held back after the last token."""
        if self.is_finished:
            return ""
        remaining = self._after_emitted(self._tokenizer.decode(self._tail), self._tail[self._num_emitted :])
        return self._until_stop(remaining, is_last=True)

    def _after_emitted(self, text: str, last: list[int]) -> str:
        """Return the part of the tail's text after the emitted part; `last` are the tokens after that part."""
        if text.startswith(self._emitted):
            return text[len(self._emitted) :]
        # The emitted text was decoded differently, with a replacement character for each byte.
        return self._tokenizer.decode(last)

    def _until_stop(self, piece: str, *, is_last: bool = False) -> str:
        """Return the held text and a piece, up to a stop string or, unless `is_last`, the possible start of one."""
        text = self._held + piece
        starts = {stop: text.find(stop) for stop in self._stop}
        ends = [(start + len(stop), start) for stop, start in starts.items() if start >= 0]
        if ends:
            self.is_finished = True
            return text[: min(ends)[1]]
        num_held = 0 if is_last else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _overlap(text: str, stop: str) -> int:
    """Return the number of characters at the end of a text that begin a stop string."""
    return next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if text.endswith(stop[:n]))


def decode_stream(
    ids: Iterable[int], tokenizer: Tokenizer, stop: Sequence[str] = (), after: Sequence[int] = ()
) -> Iterator[str]:
    """Decode an answer in pieces, each as soon as it can no longer change.

    Args:
        ids: Tokens, such as the result of `generate`; no token is read after a stop string.
        tokenizer: The tokenizer.
        stop: Strings before which the text ends; they may begin or end within a token.
        after: The last tokens of the text that the answer continues, if any.

    Yields:
        Non-empty pieces.

    Raises:
        ValueError: A stop string is empty.
    """
    return _pieces(ids, AnswerText(tokenizer, stop, after))


def _pieces(ids: Iterable[int], text: AnswerText) -> Iterator[str]:
    for token in ids:
        piece = text.add(token)
        if piece:
            yield piece
        if text.is_finished:
            break
    if isinstance(ids, Generator):
        ids.close()  # This restores the model's training mode.
    remaining = text.end()
    if remaining:
        yield remaining
