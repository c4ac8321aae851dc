"""Collect Python's garbage at the same steps on all ranks."""

import gc
from types import TracebackType
from typing import Self

from torchtune.distributed._world import World

_INTERVAL = 50
"""Number of steps between collections; torchtitan's default (`gc_freq`)."""


class GarbageCollection:
    """Replaces automatic garbage collection while it is entered, if there are several ranks.

    A collection pauses a rank, and the other ranks wait for it in the next collective. Automatic collections happen at
    different times on each rank, so their pauses add up; collections at the same step coincide.

    Args:
        world: The ranks of this run.
    """

    def __init__(self, world: World) -> None:
        self._is_active = world.size > 1 and gc.isenabled()

    def __enter__(self) -> Self:
        if self._is_active:
            gc.collect()
            gc.freeze()  # later collections do not traverse the objects that exist now, such as imported modules
            gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_active:
            gc.enable()
            gc.unfreeze()

    def collect_if_due(self, step: int) -> None:
        """Collect garbage if the step, counted from 1, is a multiple of the interval."""
        if self._is_active and step % _INTERVAL == 0:
            gc.collect()
