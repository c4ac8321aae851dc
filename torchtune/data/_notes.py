"""Notes on rows that are skipped, or encoded in a way that their author may not expect."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from attrs import define, field, frozen

from torchtune._pluralize import pluralize


@frozen
class Note:
    """A note on a row, for example about an unused column."""

    text: str
    """A plural predicate: "have an unused column: 'id'"."""
    example: str = ""
    """Details about this row."""


@define
class NoteCounts:
    """The number of rows with each note, and the first such row."""

    rows: dict[str, int] = field(factory=dict)
    """Number of rows, by the text of the note."""
    first: dict[str, str] = field(factory=dict)
    """Location and example of the first row, by the text of the note."""

    @classmethod
    def from_skipped(cls, locations: Mapping[str, Sequence[str]]) -> Self:
        """Count skipped rows, given their locations by reason."""
        by_text = {f"{reason} and are skipped": row_locations for reason, row_locations in locations.items()}
        return cls(
            {text: len(row_locations) for text, row_locations in by_text.items()},
            {text: row_locations[0] for text, row_locations in by_text.items()},
        )

    def add(self, notes: Iterable[Note], location: str | Callable[[], str]) -> list[str]:
        """Count the notes of one row.

        Args:
            notes: The row's notes.
            location: The row's location, or a function that returns it. The function, which may have to read a file, is
                called only for the first row with a note.

        Returns:
            The text of every note that no earlier row had.
        """
        new = []
        for text, note in {note.text: note for note in notes}.items():
            if text not in self.rows:
                row_location = location if isinstance(location, str) else location()
                self.first[text] = f"{row_location}: {note.example}" if note.example else row_location
                new.append(text)
            self.rows[text] = self.rows.get(text, 0) + 1
        return new

    def lines(self, n_rows: int) -> list[str]:
        """Return a line of text per note, with the number of rows out of `n_rows` and the first row."""
        return [
            f"{n:,} of {pluralize(n_rows, 'row')} {conjugate(text, n)}; first occurrence: {self.first[text]}"
            for text, n in self.rows.items()
        ]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return the counts and first rows as plain data."""
        return {text: {"rows": n, "first": self.first[text]} for text, n in self.rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and first rows."""
        return {"rows": dict(self.rows), "first": dict(self.first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.rows = dict(state["rows"])
        self.first = dict(state["first"])


_SINGULAR = {
    "have": "has",
    "are": "is",
    "contain": "contains",
    "begin": "begins",
    "do": "does",
    "repeat": "repeats",
}


def conjugate(text: str, n: int) -> str:
    """Put a plural predicate in the singular if n is 1."""
    if n != 1:
        return text
    verb, _, remainder = text.partition(" ")
    singular = _SINGULAR.get(verb, verb)
    return f"{singular} {remainder}".replace(" and are skipped", " and is skipped")


EXCERPT_LENGTH = 80
"""Maximum length of an excerpt (characters)."""


def quote_excerpt(text: str, position: int = 0) -> str:
    """Quote text on one line; if it is long, quote only an excerpt around a character position."""
    start = 0 if position < EXCERPT_LENGTH // 2 else position - EXCERPT_LENGTH // 4
    end = start + EXCERPT_LENGTH
    return repr(f"{'...' * (start > 0)}{text[start:end]}{'...' * (end < len(text))}")
