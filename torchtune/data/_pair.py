"""Pairs of a chosen and a rejected answer to one prompt, for preference tuning."""

from collections.abc import Sequence
from typing import Self

from attrs import evolve, field, frozen

from torchtune.data._batch import Batch
from torchtune.data._collate import Prefix, join_sequences
from torchtune.data._example import Example, common_prefix_length
from torchtune.data._item import Item, Side


@frozen
class Pair(Item):
    """A chosen and a rejected answer to one prompt, each as a complete sequence that begins with the prompt.

    In a batch row, `rejected` directly follows `chosen`, without the leading tokens that both share and that predict no
    target: the prompt up to its last token is computed once, and both answers attend to it. Values and gradients are
    the same as for two separate rows; with dropout, both answers use the same masks for the prompt.

    In a batch of pairs, pair i has its chosen answer in sequence 2i and its rejected answer in sequence 2i + 1.
    """

    chosen: Example
    rejected: Example
    n_shared: int = field(init=False, eq=False)
    """Number of leading tokens of both sequences that a batch row contains only once."""

    @n_shared.default
    def _count_shared(self) -> int:
        return common_prefix_length([self.chosen, self.rejected])

    @property
    def sequences(self) -> tuple[Example, ...]:
        """The chosen and the rejected sequence."""
        return (self.chosen, self.rejected)

    @property
    def length(self) -> int:
        """Number of positions that the pair occupies in a batch row; the shared prompt counts once."""
        return self.chosen.length + self.rejected.length - self.n_shared

    @property
    def counts(self) -> dict[str, int]:
        """One pair, and the targets of both answers."""
        return {"pairs": 1, "targets": self.chosen.n_targets + self.rejected.n_targets}

    def truncated(self, length: int, side: Side) -> Self | None:
        """Truncate both sequences to at most `length` positions.

        On the left, both lose the same number of tokens, so that they keep a common prompt.

        Returns:
            The shorter pair; None if an answer has no target left, or both answers have become equal.
        """
        longest = max(self.chosen.length, self.rejected.length)
        answers = []
        for example in self.sequences:
            n = min(length, example.length) if side == "right" else length - longest + example.length
            short = example.truncated(n, side) if n > 0 else None
            if short is None or not short.n_targets:
                return None
            answers.append(short)
        chosen, rejected = answers
        if chosen.tokens == rejected.tokens:
            return None
        return evolve(self, chosen=chosen, rejected=rejected)

    @classmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> Batch:
        """Collate pairs into a batch (`join_sequences`).

        Args:
            rows: The pairs of each batch row.
            pad_id: Id that pads shorter rows.
            share_prefixes: Has no effect: a pair's prompt is always stored once, and nothing else is shared.
        """
        del share_prefixes
        sequences = [[sequence for pair in row for sequence in pair.sequences] for row in rows]
        prefixes = [
            [prefix for i, pair in enumerate(row) for prefix in (None, Prefix(2 * i, pair.n_shared))]
            for row in rows
        ]
        batch = join_sequences(sequences, pad_id, prefixes)
        return evolve(batch, counts={"pairs": sum(map(len, rows)), **batch.counts})
