"""One training example: tokens, and which of them are targets."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from attrs import evolve, frozen

from torchtune.data._batch import IGNORE_INDEX, Batch
from torchtune.data._collate import Prefix, join_sequences
from torchtune.data._item import Item, Side
from torchtune.data._special_text import text_notes
from torchtune.data._tokenizer import Tokenizer

_WORTH_SHARING = 16
"""Tokens that all examples of a row begin with, at least, to be shared: keys and values of them are copied for each."""


@frozen
class Example(Item):
    """A token sequence, and of each token whether the model is trained to predict it.

    `labels[i]` is `tokens[i]` where that token is a target and IGNORE_INDEX elsewhere; the shift by one
    is made when examples are collated. The first token is never predicted, so it is never a target.

    Raises:
        ValueError: the lengths differ, or there are fewer than two tokens (one to read, one to predict).
    """

    tokens: list[int]
    labels: list[int]

    def __attrs_post_init__(self) -> None:
        if len(self.tokens) != len(self.labels):
            raise ValueError(f"an example of {len(self.tokens)} tokens has {len(self.labels)} labels")
        if len(self.tokens) < 2:
            raise ValueError("an example needs at least two tokens, one to read and one to predict")

    @property
    def n_targets(self) -> int:
        """How many tokens this example trains."""
        return len(self.labels) - 1 - self.labels[1:].count(IGNORE_INDEX)

    @property
    def length(self) -> int:
        """How many positions of a row it takes: its last token is predicted and never read."""
        return len(self.tokens) - 1

    @property
    def sequences(self) -> "tuple[Example, ...]":
        """The example itself."""
        return (self,)

    @property
    def counts(self) -> dict[str, int]:
        """How many targets there are."""
        return {"targets": self.n_targets}

    @classmethod
    def of_sequences(cls, sequences: "Sequence[Example]", extras: Mapping[str, Any]) -> Self:
        """Return the one sequence."""
        return cls(sequences[0].tokens, sequences[0].labels, **extras)

    def shortened(self, length: int, side: Side) -> Self | None:
        """Cut an example that takes more than `length` positions; None if no target is left."""
        if self.length <= length:
            return self
        part = slice(-(length + 1), None) if side == "left" else slice(length + 1)
        short = evolve(self, tokens=self.tokens[part], labels=self.labels[part])
        return short if short.n_targets else None

    @classmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> Batch:
        """Make a batch of rows of examples (`join_sequences`).

        Args:
            rows: The examples of each row.
            pad_id: What shorter rows are filled up with.
            share_prefixes: Put what all examples of a row begin with, and none has a target in, into it once, in the
                first of them. It is done from 16 tokens on.
        """
        prefixes = [_row_prefixes(row) if share_prefixes else [None] * len(row) for row in rows]
        return join_sequences(rows, pad_id, prefixes)


def _row_prefixes(row: Sequence[Example]) -> list[Prefix | None]:
    """Return the prefix that each example of a row takes from the first."""
    n = common_prefix(row) if len(row) > 1 else 0
    return [None, *[Prefix(0, n) if n >= _WORTH_SHARING else None] * (len(row) - 1)]


def common_prefix(examples: Sequence[Example]) -> int:
    """Count the tokens with which all examples begin, in whose positions none has a target.

    Each example has at least one position left after them.
    """
    most = min(len(example.tokens) for example in examples) - 2
    differing = (
        i for i, ids in enumerate(zip(*(e.tokens for e in examples), strict=False)) if len({*ids}) > 1
    )
    n = min(next(differing, most), most)
    for example in examples:
        n = next((i for i in range(n) if example.labels[i + 1] != IGNORE_INDEX), n)
    return n


def plain_example(tokenizer: Tokenizer, prompt: str, answer: str, *, train_on_input: bool) -> Example:
    """Encode a prompt directly followed by its answer, with the tokens that begin and end a text.

    Args:
        tokenizer: Encodes both.
        prompt: Given to the model.
        answer: What the model shall say, then stop.
        train_on_input: Train on the prompt as well, not on the answer alone.
    """
    prompt_tokens = tokenizer.encode(prompt, add_eos=False)
    tokens = tokenizer.encode(prompt + answer)
    if tokens[: len(prompt_tokens)] != prompt_tokens:
        # The border was merged into one token. Generation starts from the prompt's tokens, so training does too.
        tokens = prompt_tokens + tokenizer.encode(answer, add_bos=False)
    n_masked = 0 if train_on_input else len(prompt_tokens)
    notes = text_notes(tokenizer, prompt + answer)
    return Example(tokens, [IGNORE_INDEX] * n_masked + tokens[n_masked:], notes=tuple(notes))
