"""What happens to rows on their way to tokens that their owner may not expect."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from attrs import define, field, frozen

from torchtune._counted import counted


@frozen
class Note:
    """Something that happened to a row, such as a column that is not read."""

    text: str
    """What it is, as it is said of several rows: "have a column 'id' that is not read"."""
    example: str = ""
    """What exactly it is in this row."""


@define
class Tally:
    """How many rows each thing happened to, and the first of them."""

    rows: dict[str, int] = field(factory=dict)
    """Numbers of rows, by the text of the note."""
    first: dict[str, str] = field(factory=dict)
    """Where the first row is, and its example."""

    @classmethod
    def of_left_out(cls, places: Mapping[str, Sequence[str]]) -> Self:
        """Count rows that give no example, whose places are listed by the reason."""
        notes = {f"{reason} and are left out": of_rows for reason, of_rows in places.items()}
        return cls(
            {text: len(of_rows) for text, of_rows in notes.items()},
            {text: of_rows[0] for text, of_rows in notes.items()},
        )

    def add(self, notes: Iterable[Note], place: str | Callable[[], str]) -> list[str]:
        """Count the notes of one row.

        Args:
            notes: What happened to it.
            place: Where it is. A function is called for the first row alone, since it may have to read a file.

        Returns:
            The texts of those that no row had before.
        """
        new = []
        for text, note in {note.text: note for note in notes}.items():
            if text not in self.rows:
                where = place if isinstance(place, str) else place()
                self.first[text] = f"{where}: {note.example}" if note.example else where
                new.append(text)
            self.rows[text] = self.rows.get(text, 0) + 1
        return new

    def lines(self, n_rows: int) -> list[str]:
        """Say it all, a line for each thing."""
        return [
            f"{n:,} of {counted(n_rows, 'row')} {agreeing(text, n)}; the first: {self.first[text]}"
            for text, n in self.rows.items()
        ]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Give it all as plain data."""
        return {text: {"rows": n, "first": self.first[text]} for text, n in self.rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """Give the numbers and the first rows."""
        return {"rows": dict(self.rows), "first": dict(self.first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.rows = dict(state["rows"])
        self.first = dict(state["first"])


_SINGULAR = {
    "have": "has",
    "are": "is",
    "contain": "contains",
    "begin": "begins",
    "do": "does",
    "stand": "stands",
}


def agreeing(text: str, n: int) -> str:
    """Put a text that is said of rows in the singular where it is said of one."""
    if n != 1:
        return text
    verb, _, rest = text.partition(" ")
    singular = _SINGULAR.get(verb, verb)
    return f"{singular} {rest}".replace(" and are left out", " and is left out")


SHOWN = 80
"""Characters of an example at most."""


def shortened(text: str, at: int = 0) -> str:
    """Quote a text on one line, or so much of it around a character as is enough to find it."""
    start = 0 if at < SHOWN // 2 else at - SHOWN // 4
    end = start + SHOWN
    return repr(f"{'...' * (start > 0)}{text[start:end]}{'...' * (end < len(text))}")
