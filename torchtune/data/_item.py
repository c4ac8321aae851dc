"""What batches are made of, and how it is shortened."""

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
"""What is said of rows whose targets are cut off."""

Side = Literal["left", "right"]
"""An end of a sequence."""


@frozen
class Item(ABC):
    """What a dataset yields and a batch is made of: an `Example`, a `Pair`, or a class of your own.

    `Batches` packs, orders, shards, caches and resumes items of any kind, each as a whole: an item is never split over
    rows, batches or ranks. All items of a dataset are of one kind.

    A class of your own is frozen, can be pickled, and defines the abstract members. If its constructor takes something
    else than its sequences and notes, it also defines `extras`, so that it can be cached on disk.
    """

    notes: tuple[Note, ...] = field(default=(), eq=False, kw_only=True)
    """What happened to the row that it comes from."""

    @property
    @abstractmethod
    def sequences(self) -> "tuple[Example, ...]":
        """The token sequences of which it consists, in the order in which a batch numbers them."""

    @property
    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """What loss terms are divided by, by name; "targets", how many tokens are predicted, is always there."""

    @abstractmethod
    def shortened(self, length: int, side: Side) -> Self | None:
        """Cut every sequence that takes more than a number of positions.

        Args:
            length: Positions of a sequence at most, above 0.
            side: Where tokens are taken away.

        Returns:
            The shorter item; None if nothing is left to learn.
        """

    @classmethod
    @abstractmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> "Batch":
        """Make a batch of rows of such items; `join_sequences` does most of it.

        Args:
            rows: The items of each row, one at least.
            pad_id: What shorter rows are filled up with.
            share_prefixes: Put what all items of a row begin with into it once, where this kind can.
        """

    @property
    def length(self) -> int:
        """How many positions of a row it takes."""
        return sum(sequence.length for sequence in self.sequences)

    @property
    def extras(self) -> dict[str, Any]:
        """Further arguments of its constructor by name, as JSON can hold them: a cache stores them."""
        return {}

    @classmethod
    def of_sequences(cls, sequences: "Sequence[Example]", extras: Mapping[str, Any]) -> Self:
        """Undo `sequences` and `extras`."""
        return cls(*sequences, **extras)

    def with_notes(self, notes: Iterable[Note]) -> Self:
        """Return the same item with further notes."""
        return evolve(self, notes=(*self.notes, *notes))


ItemT = TypeVar("ItemT", bound=Item)
"""A kind of item."""
ItemT_co = TypeVar("ItemT_co", bound=Item, covariant=True)


@frozen
class LeftOut:
    """A row that gives no item."""

    reason: str
    """What is the matter with it, said of several rows: "have no answer"."""
    place: str
    """Where it is, such as "rows.jsonl: line 3"."""

    @property
    def note(self) -> Note:
        """The note that reports it."""
        return Unlearnable(self.reason).note


@frozen
class Unlearnable:
    """Why there is nothing to learn from a row, or from an item."""

    reason: str
    """Said of several rows: "have no answer"."""

    @property
    def note(self) -> Note:
        """The note that reports it."""
        return Note(f"{self.reason} and are left out")


Encoded: TypeAlias = ItemT | Sequence[ItemT] | LeftOut
"""What a row gives: an item, several, or why there is none."""


def items_of(encoded: ItemT | Sequence[ItemT]) -> Sequence[ItemT]:
    """Return the items of a row, of which there may be one."""
    return [encoded] if isinstance(encoded, Item) else encoded


def total_counts(items: Iterable[Item]) -> dict[str, int]:
    """Add up the counts of items."""
    total = Counter[str]()
    for item in items:
        total.update(item.counts)
    return dict(total)


def kind_of(items: Iterable[Item], known: type[Item] | None = None) -> type[Item] | None:
    """Return the class that all items have.

    Args:
        items: Any number of them.
        known: The class of items before them, if there were any.

    Raises:
        ValueError: They are of several classes.
    """
    kinds = dict.fromkeys(type(item) for item in items)
    if known is not None:
        kinds = {known: None, **kinds}
    if len(kinds) > 1:
        names = " and ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"rows give items of several kinds, {names}; all items of a dataset must be of one kind"
        )
    return next(iter(kinds), None)


@frozen
class LengthLimit:
    """How long items may be; those that are longer are cut, or left out."""

    sequence: int | None = None
    """Positions of each sequence, at most: what the model can read. None: any number."""
    item: int | None = None
    """Positions of a whole item, at most: the length of a packed row. None: any number."""
    side: Side = "right"
    """Where tokens are taken away."""
    tokens: int | None = None
    """The number that notes report. None: the smaller of the two above."""
    setting: str = ""
    """What notes write before it, such as "max_seq_len="."""

    @property
    def shortest(self) -> int:
        """The smaller of the two numbers of positions; one of them is set."""
        return min(n for n in (self.sequence, self.item) if n is not None)

    def admits(self, item: Item) -> bool:
        """Tell whether an item is short enough."""
        if self.item is not None and item.length > self.item:
            return False
        return self.sequence is None or all(sequence.length <= self.sequence for sequence in item.sequences)


def truncate(item: ItemT, limit: LengthLimit) -> ItemT | Unlearnable:
    """Cut an item that is too long, and note it; one that is short enough is returned as it is.

    If it is its sequences together that are too long, they are cut to the greatest length at which they fit.

    Args:
        item: Of any length.
        limit: How long it may be.

    Returns:
        The item, or why nothing of it is left to learn.
    """
    if limit.admits(item):
        return item
    n = limit.shortest if limit.tokens is None else limit.tokens
    short = item.shortened(_sequence_length(item, limit), limit.side)
    if short is None:
        return Unlearnable(f"have {NO_TARGET} {n} tokens")
    lengths = [len(sequence.tokens) for sequence in item.sequences]
    size = (
        f"{lengths[0]} tokens" if len(lengths) == 1 else f"{item.length} tokens in {len(lengths)} sequences"
    )
    return short.with_notes([Note(f"are cut at {limit.setting}{n} tokens", size)])


def _sequence_length(item: Item, limit: LengthLimit) -> int:
    """Return the greatest length of sequences with which an item is short enough."""

    def total(length: int) -> int:
        short = item.shortened(length, limit.side)
        return 0 if short is None else short.length

    if limit.item is None or total(limit.shortest) <= limit.item:
        return limit.shortest
    return bisect.bisect_right(range(1, limit.shortest + 1), limit.item, key=total)


def notes_of(item: ItemT, fitted: ItemT | Unlearnable) -> tuple[Note, ...]:
    """Return what happened to an item, also when it was cut."""
    return (*item.notes, fitted.note) if isinstance(fitted, Unlearnable) else fitted.notes
