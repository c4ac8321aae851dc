"""Decide when a checkpoint is due, and write it."""

import time
from typing import Any

from attrs import define

from torchtune.data import Batches
from torchtune.distributed import World
from torchtune.training._checkpoints import Checkpoints
from torchtune.training._state import State


@define(eq=False, slots=False)
class CheckpointSaver:
    """Decides when a checkpoint is due, and writes it.

    Args:
        section: The config section for checkpoints.
        state: The state of the run, which writes checkpoints.
        batches: The batches of this rank, which count epochs.
        world: The ranks of this run.
    """

    _section: Checkpoints
    _state: State
    _batches: Batches[Any]
    _world: World

    def __attrs_post_init__(self) -> None:
        self._saved_at = time.monotonic()
        self._epoch = self._batches.epoch

    @property
    def is_enabled(self) -> bool:
        """Whether the run writes checkpoints; if so, it also writes one after its last step, to extend the run from."""
        section = self._section
        return section.at_epoch_ends or (section.every_n_steps, section.every_n_minutes) != (None, None)

    def is_due(self) -> bool:
        """Return whether a checkpoint is due after this step; only rank 0 checks the time."""
        section, step = self._section, self._state.step
        minutes = section.every_n_minutes
        elapsed = time.monotonic() - self._saved_at
        is_time_up = minutes is not None and self._world.is_main and elapsed >= 60 * minutes
        epoch_ended = section.at_epoch_ends and self._batches.epoch > self._epoch
        return (
            is_time_up
            or epoch_ended
            or (section.every_n_steps is not None and step % section.every_n_steps == 0)
        )

    def save(self) -> None:
        """Write a checkpoint; all ranks must call this.

        Raises:
            OSError: The checkpoint cannot be written.
        """
        section = self._section
        saved_at = time.monotonic()
        self._state.save(
            keep=section.keep, keep_every=section.keep_every_n_steps, wait=not section.asynchronous
        )
        self._saved_at, self._epoch = saved_at, self._batches.epoch
