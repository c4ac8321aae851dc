"""What the datasets of rows have in common: which rows are used, and when they are encoded."""

import logging
from abc import abstractmethod

from torch.utils.data import Dataset

from torchtune.data import Example
from torchtune.datasets._rows import AlpacaRow, AlpacaRows

_logger = logging.getLogger(__name__)


class RowDataset(Dataset[Example]):
    """Encodes rows when they are asked for.

    Encoding a row takes about a millisecond, a step of training hundreds of them; done ahead, it
    would make every start wait, and every rank hold the whole set in memory. What can be wrong is found
    at construction nevertheless: rows are checked as text, and the first one is encoded. With a
    `max_seq_len` all rows are encoded once to find those that it leaves without an answer.

    Args:
        rows: The rows, each checked.
        max_seq_len: Longest example in tokens, above 1, or None for any length.

    Raises:
        ValueError: no row is left, or the first one cannot be encoded.
    """

    def __init__(self, rows: AlpacaRows, max_seq_len: int | None) -> None:
        if max_seq_len is not None and max_seq_len < 2:
            raise ValueError(f"max_seq_len: expected an int above 1, or null, got {max_seq_len}")
        self._rows = rows
        self._max_seq_len = max_seq_len
        self._kept = [i for i, row in enumerate(rows) if row.output.strip()]
        self._report("have no answer and are left out", set(range(len(rows))).difference(self._kept))
        if max_seq_len is not None:
            self._fit(max_seq_len)
        if not self._kept:
            raise ValueError(f"{rows.place(0)} and every other row ({len(rows)}) have no answer to learn")
        self._encoded(self._kept[0])

    @property
    def n_dropped(self) -> int:
        """How many rows are left out because they hold nothing to learn."""
        return len(self._rows) - len(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int, /) -> Example:
        return self._encoded(self._kept[index])

    @abstractmethod
    def _example(self, row: AlpacaRow) -> Example:
        """Encode a row of any length."""

    def _encoded(self, i: int) -> Example:
        """Encode a row and cut it at its end, where it is too long."""
        example = self._example(self._rows[i])
        return Example(example.tokens[: self._max_seq_len], example.labels[: self._max_seq_len])

    def _fit(self, max_seq_len: int) -> None:
        """Leave out what has no target within the length, and say how much is cut."""
        long = [i for i in self._kept if len(self._example(self._rows[i]).tokens) > max_seq_len]
        lost = {i for i in long if self._encoded(i).n_targets == 0}
        self._kept = [i for i in self._kept if i not in lost]
        self._report(f"have no target within {max_seq_len} tokens and are left out", lost)
        self._report(f"are cut at {max_seq_len} tokens", set(long) - lost)

    def _report(self, what: str, indices: set[int]) -> None:
        """Log what happens to rows, so that nothing is left out in silence."""
        if indices:
            first = self._rows.place(min(indices))
            _logger.warning("%d of %d rows %s; the first: %s", len(indices), len(self._rows), what, first)
