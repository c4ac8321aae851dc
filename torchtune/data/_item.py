"""Items, the elements of batches, and their truncation."""

import bisect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from attrs import evolve, field, frozen

from torchtune.data._notes import Note

if TYPE_CHECKING:
    from torchtune.data._batch import Batch
    from torchtune.data._example import Example

NO_TARGET = "no target within"
"""Part of the note on rows whose targets are all cut off."""

Side = Literal["left", "right"]
"""The end at which a sequence is truncated."""


@frozen
class Item(ABC):
    """The unit that datasets yield and batches are built from: an `Example`, a `Pair`, or a custom class.

    `Batches` packs, shuffles, shards, caches and resumes items of any type. An item is never split across batch rows,
    batches or ranks. All items of a dataset have the same type.

    A custom class must be frozen and picklable, and define the abstract members. If its constructor has parameters
    other than its sequences and notes, it must also define `extras`, so that it can be cached on disk.
    """

    notes: tuple[Note, ...] = field(default=(), eq=False, kw_only=True)
    """Notes on the row that the item comes from."""

    @property
    @abstractmethod
    def sequences(self) -> "tuple[Example, ...]":
        """The item's token sequences, in the order of their indices in a batch."""

    @property
    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """Divisors of loss terms, by name; always includes "targets", the number of predicted tokens."""

    @abstractmethod
    def truncated(self, length: int, side: Side) -> Self | None:
        """Truncate every sequence to a number of positions.

        Args:
            length: Maximum length of a sequence (positions), above 0.
            side: The end at which tokens are removed.

        Returns:
            The shorter item; None if no target remains.
        """

    @classmethod
    @abstractmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> "Batch":
        """Collate items into a batch; `join_sequences` does most of the work.

        Args:
            rows: The items of each batch row, at least one.
            pad_id: Id that pads shorter rows.
            share_prefixes: Store the common prefix of all items of a row once, if this type supports it.
        """

    @property
    def length(self) -> int:
        """Number of positions that the item occupies in a batch row."""
        return sum(sequence.length for sequence in self.sequences)

    @property
    def extras(self) -> dict[str, Any]:
        """Additional constructor arguments by name, as JSON values, which a cache stores."""
        return {}

    @classmethod
    def from_sequences(cls, sequences: "Sequence[Example]", extras: Mapping[str, Any]) -> Self:
        """Build an item from its `sequences` and `extras`."""
        return cls(*sequences, **extras)

    def with_notes(self, notes: Iterable[Note]) -> Self:
        """Return the same item with additional notes."""
        return evolve(self, notes=(*self.notes, *notes))


ItemT = TypeVar("ItemT", bound=Item)
"""A type of item."""
ItemT_co = TypeVar("ItemT_co", bound=Item, covariant=True)


@frozen
class SkippedRow:
    """A row that yields no item."""

    reason: str
    """The reason why the row is skipped, as a plural predicate: "have no answer"."""
    location: str
    """Location of the row, such as "rows.jsonl: line 3", possibly followed by an error message."""

    @property
    def note(self) -> Note:
        """The note that reports the skipped row."""
        return SkipReason(self.reason).note


@frozen
class SkipReason:
    """The reason why a row or an item is skipped."""

    reason: str
    """A plural predicate: "have no answer"."""

    @property
    def note(self) -> Note:
        """The note that reports the skipped row."""
        return Note(f"{self.reason} and are skipped")


Encoded: TypeAlias = ItemT | Sequence[ItemT] | SkippedRow
"""An encoded row: an item, several items, or a skipped row."""


def as_items(encoded: ItemT | Sequence[ItemT]) -> Sequence[ItemT]:
    """Return the items of an encoded row as a sequence."""
    return [encoded] if isinstance(encoded, Item) else encoded


def total_counts(items: Iterable[Item]) -> dict[str, int]:
    """Sum the counts of items."""
    total = Counter[str]()
    for item in items:
        total.update(item.counts)
    return dict(total)


def common_type(items: Iterable[Item], expected: type[Item] | None = None) -> type[Item] | None:
    """Return the common type of all items, or None if there are no items.

    Args:
        items: The items.
        expected: The type of earlier items, if any.

    Raises:
        ValueError: the items have different types.
    """
    types = dict.fromkeys(type(item) for item in items)
    if expected is not None:
        types = {expected: None, **types}
    if len(types) > 1:
        names = " and ".join(item_type.__name__ for item_type in types)
        raise ValueError(f"the dataset yields items of different types, {names}; all must have the same type")
    return next(iter(types), None)


@frozen
class LengthLimit:
    """The maximum length of items; longer ones are truncated or skipped."""

    sequence: int | None = None
    """Length of the longest sequence that the model can read (positions). None: no limit."""
    item: int | None = None
    """Maximum length of an item (positions), which is the length of a pack. None: no limit."""
    side: Side = "right"
    """The end at which tokens are removed."""
    tokens: int | None = None
    """The limit that notes report. None: the smaller of the two limits above."""
    setting: str = ""
    """A prefix of the limit in notes, such as "max_seq_len="."""

    @property
    def shortest(self) -> int:
        """The smaller of the two limits, at least one of which is set."""
        return min(n for n in (self.sequence, self.item) if n is not None)

    def admits(self, item: Item) -> bool:
        """Return whether an item is within the limits."""
        if self.item is not None and item.length > self.item:
            return False
        return self.sequence is None or all(sequence.length <= self.sequence for sequence in item.sequences)


def truncate(item: ItemT, limit: LengthLimit) -> ItemT | SkipReason:
    """Truncate an item that is too long, and add a note; return any other item unchanged.

    If the sequences are too long together, they are truncated to the greatest length at which they fit.

    Args:
        item: An item of any length.
        limit: The maximum length.

    Returns:
        The item, or the reason to skip it if no target remains.
    """
    if limit.admits(item):
        return item
    n = limit.shortest if limit.tokens is None else limit.tokens
    short = item.truncated(_sequence_length(item, limit), limit.side)
    if short is None:
        return SkipReason(f"have {NO_TARGET} {n} tokens")
    lengths = [len(sequence.tokens) for sequence in item.sequences]
    size = (
        f"{lengths[0]} tokens" if len(lengths) == 1 else f"{item.length} tokens in {len(lengths)} sequences"
    )
    return short.with_notes([Note(f"are truncated to {limit.setting}{n} tokens", size)])


def _sequence_length(item: Item, limit: LengthLimit) -> int:
    """Return the greatest sequence length at which an item is within the limits."""

    def total(length: int) -> int:
        short = item.truncated(length, limit.side)
        return 0 if short is None else short.length

    if limit.item is None or total(limit.shortest) <= limit.item:
        return limit.shortest
    return bisect.bisect_right(range(1, limit.shortest + 1), limit.item, key=total)


def notes_of(item: ItemT, truncated: ItemT | SkipReason) -> tuple[Note, ...]:
    """Return the notes on an item, including notes on its truncation."""
    return (*item.notes, truncated.note) if isinstance(truncated, SkipReason) else truncated.notes
