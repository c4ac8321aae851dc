"""Two answers to one prompt, of which one is preferred."""

from collections.abc import Sequence
from typing import Self

from attrs import evolve, field, frozen

from torchtune.data._batch import Batch
from torchtune.data._collate import Prefix, join_sequences
from torchtune.data._example import Example, common_prefix
from torchtune.data._item import Item, Side


@frozen
class Pair(Item):
    """Two answers to one prompt, of which one is preferred; each is a whole sequence that begins with the prompt.

    In a row, `rejected` directly follows `chosen`, without the tokens that both begin with and that predict no target:
    the prompt up to its last token is computed once, and both answers see it. Values and gradients are those of two
    rows; with dropout, the answers draw the prompt's masks together.

    In a batch of pairs, sequence 2i is the chosen one of pair i, and sequence 2i + 1 the rejected one.
    """

    chosen: Example
    rejected: Example
    n_shared: int = field(init=False, eq=False)
    """How many tokens both begin with that are in a row once."""

    @n_shared.default
    def _count_shared(self) -> int:
        return common_prefix([self.chosen, self.rejected])

    @property
    def sequences(self) -> tuple[Example, ...]:
        """The chosen one and the rejected one."""
        return (self.chosen, self.rejected)

    @property
    def length(self) -> int:
        """How many positions of a row it takes, the prompt once."""
        return self.chosen.length + self.rejected.length - self.n_shared

    @property
    def counts(self) -> dict[str, int]:
        """One pair, and the targets of both answers."""
        return {"pairs": 1, "targets": self.chosen.n_targets + self.rejected.n_targets}

    def shortened(self, length: int, side: Side) -> Self | None:
        """Cut both sequences alike, to at most `length` positions.

        On the left, both lose equally many tokens, so that they keep the prompt in common.

        Returns:
            The shorter pair; None if one answer has no target left, or both are the same now.
        """
        longest = max(self.chosen.length, self.rejected.length)
        answers = []
        for example in self.sequences:
            n = min(length, example.length) if side == "right" else length - longest + example.length
            short = example.shortened(n, side) if n > 0 else None
            if short is None or not short.n_targets:
                return None
            answers.append(short)
        chosen, rejected = answers
        if chosen.tokens == rejected.tokens:
            return None
        return evolve(self, chosen=chosen, rejected=rejected)

    @classmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> Batch:
        """Make a batch of rows of pairs (`join_sequences`).

        Args:
            rows: The pairs of each row.
            pad_id: What shorter rows are filled up with.
            share_prefixes: Has no effect: each pair's prompt is always in the row once, and nothing else.
        """
        del share_prefixes
        sequences = [[sequence for pair in row for sequence in pair.sequences] for row in rows]
        prefixes = [
            [prefix for i, pair in enumerate(row) for prefix in (None, Prefix(2 * i, pair.n_shared))]
            for row in rows
        ]
        batch = join_sequences(sequences, pad_id, prefixes)
        return evolve(batch, counts={"pairs": sum(map(len, rows)), **batch.counts})
