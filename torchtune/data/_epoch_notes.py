"""The notes on the rows of an epoch: counted, logged and recorded."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import define, field

from torchtune._pluralize import pluralize
from torchtune.data._item import NO_TARGET
from torchtune.data._notes import Note, NoteCounts

_logger = logging.getLogger(__name__)

_LONG_ROWS = (
    "; the prompts are longer than this limit; raise loading.packing.length, model.max_seq_len or the dataset's"
    " max_seq_len, or truncate on the left (dataset.truncate=left)"
)


@define(eq=False)
class EpochNotes:
    """Counts the notes on the rows of an epoch; each is logged when it first occurs, and with its total at the end."""

    _logs: bool
    """Whether notes are logged."""
    _record: Callable[[dict[str, Any]], None] | None
    """Called with the epoch's totals, as plain data; None: they are not recorded."""
    _logged: set[str]
    """Texts of the notes that have been logged."""
    n_batch_rows: int = field(default=0, init=False)
    """Number of batch rows of the epoch so far."""
    n_rows_read: int = field(default=0, init=False)
    """Number of dataset rows of the epoch so far."""
    _counts: NoteCounts = field(factory=NoteCounts, init=False)
    _previous: dict[str, int] = field(factory=dict, init=False)

    def add(
        self,
        notes: Iterable[Note],
        location: str | Callable[[], str],
        counts: NoteCounts | None = None,
    ) -> None:
        """Count the notes of a row, and log notes that have not been logged before.

        Args:
            notes: The row's notes.
            location: As in `NoteCounts.add`.
            counts: The counts to which the notes are added. None: the epoch's.
        """
        counts = self._counts if counts is None else counts
        for text in counts.add(notes, location):
            if text not in self._logged and self._logs:
                _logger.warning("rows %s; first occurrence: %s", text, counts.first[text])
            self._logged.add(text)

    def end(self, epoch: int) -> None:
        """Log and record the totals of an epoch, counted from 1, and begin the next one.

        Raises:
            ValueError: No row of the epoch has a target.
        """
        lines = self._counts.lines(self.n_rows_read)
        if not self.n_batch_rows:
            raise ValueError(
                f"no row has a target ({pluralize(self.n_rows_read, 'row')}): {'; '.join(lines)}"
                f"{_LONG_ROWS * any(NO_TARGET in line for line in lines)}"
            )
        if self._logs:
            for line in lines if self._counts.rows != self._previous else []:
                _logger.warning("epoch %d: %s", epoch, line)
        self._previous = self._counts.rows
        self.record(epoch)
        self._counts = NoteCounts()
        self.n_rows_read = 0
        self.n_batch_rows = 0

    def record(self, epoch: int) -> None:
        """Record the totals of an epoch so far, if any of its rows have been read."""
        if self._record is not None and self.n_rows_read:
            self._record({"epoch": epoch, "rows": self.n_rows_read, "notes": self._counts.summary()})

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of the epoch."""
        return {**self._counts.state_dict(), "seen": self.n_rows_read, "given": self.n_batch_rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts; notes that the saved run has logged are not logged again."""
        self._counts.load_state_dict(dict(state))
        self._logged |= set(self._counts.rows)
        self.n_rows_read = state["seen"]
        self.n_batch_rows = state["given"]
