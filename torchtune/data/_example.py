"""Training examples: tokens and labels."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from attrs import evolve, frozen

from torchtune.data._batch import IGNORE_INDEX, Batch
from torchtune.data._collate import Prefix, join_sequences
from torchtune.data._item import Item, Side
from torchtune.data._special_text import text_notes
from torchtune.data._tokenizer import Tokenizer

_MIN_SHARED_PREFIX = 16
"""Minimum length of a shared prefix (tokens). Sharing has a cost: the keys and values are copied for every example."""


@frozen
class Example(Item):
    """A token sequence with labels.

    `labels[i]` is `tokens[i]` if that token is a target, and IGNORE_INDEX otherwise; labels are shifted by one when
    examples are collated. The first token is never predicted, so it is never a target.

    Raises:
        ValueError: the lengths differ, or there are fewer than two tokens (one to read, one to predict).
    """

    tokens: list[int]
    labels: list[int]

    def __attrs_post_init__(self) -> None:
        if len(self.tokens) != len(self.labels):
            raise ValueError(f"{len(self.tokens)} tokens need as many labels, got {len(self.labels)}")
        if len(self.tokens) < 2:
            raise ValueError("an example needs at least two tokens, one as the input and one to predict")

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.labels) - 1 - self.labels[1:].count(IGNORE_INDEX)

    @property
    def length(self) -> int:
        """Number of positions that the example occupies: the tokens except the last one, which is only predicted."""
        return len(self.tokens) - 1

    @property
    def sequences(self) -> "tuple[Example, ...]":
        """The example itself."""
        return (self,)

    @property
    def counts(self) -> dict[str, int]:
        """The number of targets."""
        return {"targets": self.n_targets}

    @classmethod
    def from_sequences(cls, sequences: "Sequence[Example]", extras: Mapping[str, Any]) -> Self:
        """Build an example from its only sequence."""
        return cls(sequences[0].tokens, sequences[0].labels, **extras)

    def truncated(self, length: int, side: Side) -> Self | None:
        """Truncate the example to `length` positions; return None if no target remains."""
        if self.length <= length:
            return self
        part = slice(-(length + 1), None) if side == "left" else slice(length + 1)
        short = evolve(self, tokens=self.tokens[part], labels=self.labels[part])
        return short if short.n_targets else None

    @classmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> Batch:
        """Collate examples into a batch (`join_sequences`).

        Args:
            rows: The examples of each batch row.
            pad_id: Id that pads shorter rows.
            share_prefixes: Store the common prefix of all examples of a row once, in the first example. A prefix is
                shared if it has at least 16 tokens, and ends before the first target of any example.
        """
        prefixes = [_row_prefixes(row) if share_prefixes else [None] * len(row) for row in rows]
        return join_sequences(rows, pad_id, prefixes)


def _row_prefixes(row: Sequence[Example]) -> list[Prefix | None]:
    """Return the prefix that each example of a row shares with the first."""
    n = common_prefix_length(row) if len(row) > 1 else 0
    return [None, *[Prefix(0, n) if n >= _MIN_SHARED_PREFIX else None] * (len(row) - 1)]


def common_prefix_length(examples: Sequence[Example]) -> int:
    """Count the leading tokens that all examples share and whose positions predict no target in any of them.

    At least one position of each example remains after the prefix.
    """
    longest = min(len(example.tokens) for example in examples) - 2
    differing = (
        i for i, ids in enumerate(zip(*(e.tokens for e in examples), strict=False)) if len({*ids}) > 1
    )
    n = min(next(differing, longest), longest)
    for example in examples:
        n = next((i for i in range(n) if example.labels[i + 1] != IGNORE_INDEX), n)
    return n


def plain_example(tokenizer: Tokenizer, prompt: str, answer: str, *, train_on_input: bool) -> Example:
    """Encode a prompt directly followed by its answer, with BOS and EOS.

    Args:
        tokenizer: The tokenizer for both.
        prompt: The input.
        answer: The answer; the model also learns to predict EOS after it.
        train_on_input: Train on the prompt too, not only on the answer.
    """
    prompt_tokens = tokenizer.encode(prompt, add_eos=False)
    tokens = tokenizer.encode(prompt + answer)
    if tokens[: len(prompt_tokens)] != prompt_tokens:
        # A token spans the boundary. Generation starts from the prompt's own tokens, so training does too.
        tokens = prompt_tokens + tokenizer.encode(answer, add_bos=False)
    n_masked = 0 if train_on_input else len(prompt_tokens)
    notes = text_notes(tokenizer, prompt + answer)
    return Example(tokens, [IGNORE_INDEX] * n_masked + tokens[n_masked:], notes=tuple(notes))
