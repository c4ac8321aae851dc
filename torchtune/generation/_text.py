"""An answer's text as its tokens come."""

from collections.abc import Generator, Iterable, Iterator, Sequence

from torchtune.data import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """Turns an answer's tokens into text, piece by piece, each once it can no longer change.

    A character may take several tokens, and a token's text may depend on those before it; the latter is so at the
    beginning of a text, where SentencePiece drops a space, and within a character. So only the tokens of the last
    piece are decoded again with each new one, as what the new one follows, and not the whole answer.

    A text ends before the stop string that is complete first, of several that end together the longest. It is looked
    for in the text and not among the tokens, and what may become one is held back.

    The pieces joined are the tokens decoded together, with one exception: where bytes that are no character follow
    whole characters that are written in bytes too, some tokenizers would replace these as well.

    Args:
        tokenizer: Decodes the tokens.
        stop: Stop strings.
        after: The last tokens of what the answer continues, so that a space between it and them is not dropped.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        if "" in stop:
            raise ValueError("stop: a stop string is empty, so that every answer would be; leave it out")
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tail = list(after)
        # How many of the tail's tokens are in a piece already, and their text.
        self._n_told = len(self._tail)
        self._told = tokenizer.decode(self._tail) if self._tail else ""
        self._held = ""
        self.is_over = False
        """Whether a stop string has ended the text; no token is to follow then."""

    def add(self, token: int) -> str:
        """Take the next token, and return the text that is certain by now."""
        self._tail.append(token)
        text = self._tokenizer.decode(self._tail)
        if text.endswith(_INCOMPLETE) or text == self._told:
            return ""
        last = self._tail[self._n_told :]
        piece = self._behind(text, last)
        told = self._tokenizer.decode(last)
        if told and text.endswith(told):  # It is a beginning of its own, whose own first space is behind us.
            self._tail = last
            text = told
        self._n_told = len(self._tail)
        self._told = text
        return self._unless_stopped(piece)

    def end(self) -> str:
        """Return what was held back, once the last token is there."""
        if self.is_over:
            return ""
        rest = self._behind(self._tokenizer.decode(self._tail), self._tail[self._n_told :])
        return self._unless_stopped(rest, is_last=True)

    def _behind(self, text: str, last: list[int]) -> str:
        """Return what a text of the tail says behind what is told already; `last` are the tokens behind it."""
        if text.startswith(self._told):
            return text[len(self._told) :]
        # What is told was written otherwise, with a replacement character for each of its bytes.
        return self._tokenizer.decode(last)

    def _unless_stopped(self, piece: str, *, is_last: bool = False) -> str:
        """Return what is held back and a piece, up to a stop string or, unless it is the last, what may become one."""
        text = self._held + piece
        starts = {stop: text.find(stop) for stop in self._stop}
        ends = [(start + len(stop), start) for stop, start in starts.items() if start >= 0]
        if ends:
            self.is_over = True
            return text[: min(ends)[1]]
        n_held = 0 if is_last else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text begin a stop string."""
    return next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if text.endswith(stop[:n]))


def as_text(
    ids: Iterable[int], tokenizer: Tokenizer, stop: Sequence[str] = (), after: Sequence[int] = ()
) -> Iterator[str]:
    """Decode an answer piece by piece, each as soon as it can no longer change.

    Args:
        ids: Tokens, such as `generate` yields them; they are read no further than to a stop string.
        tokenizer: Decodes them.
        stop: Strings before which the text ends; they are found also where they begin or end within a token.
        after: The last tokens of what the text continues, if any.

    Yields:
        Pieces that are not empty.

    Raises:
        ValueError: a stop string is empty.
    """
    return _pieces(ids, AnswerText(tokenizer, stop, after))


def _pieces(ids: Iterable[int], text: AnswerText) -> Iterator[str]:
    for token in ids:
        piece = text.add(token)
        if piece:
            yield piece
        if text.is_over:
            break
    if isinstance(ids, Generator):
        ids.close()  # so that the model is back in its own mode
    rest = text.end()
    if rest:
        yield rest
