"""The global batch size, which is compared with the saved run's when a run resumes."""

import logging
from typing import Any

from attrs import define

from torchtune._pluralize import pluralize
from torchtune.distributed import World

_logger = logging.getLogger(__name__)


@define(eq=False)
class GlobalBatch:
    """The number of rows per optimizer step on all ranks; logs a warning if it changes when a run resumes.

    Args:
        batch_size: Number of rows per micro-batch on each rank.
        accumulation: Number of micro-batches per optimizer step on each rank.
        world: The ranks of this run.
    """

    _batch_size: int
    _accumulation: int
    _world: World

    @property
    def n_rows(self) -> int:
        """Number of rows per optimizer step on all ranks."""
        return self._batch_size * self._accumulation * self._world.data_size

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for `load_state_dict`."""
        return {"n_rows": self.n_rows, "ranks": self._world.data_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare the size with the saved run's; log any change, and the setting that restores the saved size."""
        saved, per_micro_batch = state["n_rows"], self._batch_size * self._world.data_size
        if saved == self.n_rows or not self._world.is_main:
            return
        advice = f"set gradient_accumulation_steps={saved // per_micro_batch} to restore it"
        if saved % per_micro_batch:
            ranks = pluralize(self._world.data_size, "rank")
            advice = f"no value of gradient_accumulation_steps restores it with this batch_size on {ranks}"
        ranks = f" on {pluralize(state['ranks'], 'rank')}"
        size = pluralize(self.n_rows, "row")
        _logger.warning("the global batch size is now %s (was %d%s); %s", size, saved, ranks, advice)
