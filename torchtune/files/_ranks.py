"""The processes that write files together."""

from typing import Protocol

from attrs import frozen


class Ranks(Protocol):
    """The ranks that write a folder together, such as `torchtune.distributed.World`."""

    @property
    def rank(self) -> int:
        """The index of this rank, from 0."""
        ...

    @property
    def size(self) -> int:
        """Number of ranks."""
        ...

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        ...


@frozen
class SingleRank:
    """A process that writes alone."""

    rank: int = 0
    size: int = 1

    def barrier(self) -> None:
        """Return at once."""


SINGLE_RANK = SingleRank()
