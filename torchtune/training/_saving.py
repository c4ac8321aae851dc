"""When checkpoints are written, and how a run ends that is asked to."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self

from torchtune.data import Batches, Item
from torchtune.runs import RunFolder
from torchtune.training._checkpoints import Checkpoints
from torchtune.training._signals import Stopped, StopRequests
from torchtune.training._state import State
from torchtune.training._world import World


class Saving:
    """Counts a run's steps, and writes a checkpoint behind those where one is due or the run is asked to end.

    Use it as a context manager around the loop over `steps`.

    Args:
        section: When checkpoints are due and which stay.
        state: Writes them.
        batches: Know the epoch.
        world: This process and its fellows.
    """

    def __init__(self, section: Checkpoints, state: State, batches: Batches[Item], world: World) -> None:
        self._section = section
        self._state = state
        self._batches = batches
        self._world = world
        self._requests = StopRequests(world, RunFolder(state.output_dir).resume_hint())
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._requests)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the last checkpoint, unless the run failed on one of several ranks."""
        try:
            if kind is None or (self._world.size == 1 and issubclass(kind, Exception)):
                self._state.wait()
        finally:
            self._stack.close()

    def steps(self, total_steps: int) -> Iterator[int]:
        """Yield the numbers of the steps that are left, from 1 on; all ranks must go through them.

        Raises:
            Stopped: The run was asked to end, and has a checkpoint of its last step.
            OSError: A checkpoint cannot be written.
            ValueError: The run is further than that.
        """
        if self._state.step > total_steps:
            raise ValueError(
                f"the run is at step {self._state.step} already, behind the {total_steps} that it shall have; raise"
                " epochs or the step limits, or write another output_dir"
            )
        section = self._section
        saved_at = time.monotonic()
        epoch = self._batches.epoch
        while self._state.step < total_steps:
            self._state.step += 1
            yield self._state.step
            self._state.check()
            now = time.monotonic()
            minutes = section.every_n_minutes  # by rank 0's clock
            is_time = minutes is not None and self._world.is_main and now - saved_at >= 60 * minutes
            is_time, stop = self._world.any(is_time, self._requests.received is not None)
            epoch_ended = section.at_epoch_ends and self._batches.epoch > epoch
            every = section.every_n_steps
            if stop or is_time or epoch_ended or (every is not None and self._state.step % every == 0):
                wait = not section.asynchronous
                self._state.save(keep=section.keep, keep_every=section.keep_every_n_steps, wait=wait)
                saved_at = now
                epoch = self._batches.epoch
            if stop and self._state.step < total_steps:
                self._stop(total_steps)

    def _stop(self, total_steps: int) -> None:
        self._state.wait()
        self._world.barrier()
        self._stack.close()
        number = self._requests.received or signal.SIGTERM
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {self._state.step} of {total_steps};"
            f" {self._state.last_checkpoint()} is written, and {RunFolder(self._state.output_dir).resume_hint()}",
            number,
        )
