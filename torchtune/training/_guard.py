"""What happens to a step whose loss or gradient is no number."""

import logging
import math
from collections.abc import Sequence
from typing import Literal

from attrs import define, field

from torchtune.data import Batch, place_of
from torchtune.training._scaling import LossScale
from torchtune.training._state import State
from torchtune.training._world import World

_logger = logging.getLogger(__name__)

IN_A_ROW = 10
"""Skipped steps in a row after which the run ends nevertheless."""
_NAMED = 8
"""Rows that are named at most."""


@define(eq=False)
class Guard:
    """Lets steps through whose loss and gradient are finite; all ranks come to the same answer.

    Args:
        non_finite: "stop" ends the run at a step that is not; "skip" passes over it, unless ten come in a row.
        state: Knows the last good checkpoint.
        scale: Of fp16; a gradient that overflowed for it alone is no fault.
        dataset: Says where a row stands, if it can (`place`).
        world: This process and its fellows.
    """

    _non_finite: Literal["stop", "skip"]
    _state: State
    _scale: LossScale
    _dataset: object
    _world: World
    reason: str = field(default="", init=False)
    """Why the last step was not let through."""

    def passes(
        self, mean_loss: float, grad_norm: float, losses: Sequence[float], batches: Sequence[Batch]
    ) -> bool:
        """Judge a step after its backward passes; all ranks must call it.

        Args:
            mean_loss: Over the step's target tokens on all ranks.
            grad_norm: L2 norm of the whole gradient.
            losses: Of each micro-batch on this rank.
            batches: The micro-batches.

        Returns:
            Whether the optimizer is to take the step.

        Raises:
            FloatingPointError: It is not, and the run is to end; parameters and optimizer are as they were.
        """
        if math.isfinite(mean_loss) and math.isfinite(grad_norm):
            self._scale.grow()
            self._state.non_finite_in_a_row = 0
            return True
        if math.isfinite(mean_loss) and self._scale.shrink():
            self.reason = f"the gradient overflowed fp16, whose loss scale is {self._scale.factor:g} now"
            return False
        self._state.non_finite_in_a_row += 1
        in_a_row = self._state.non_finite_in_a_row
        value = (
            f"the gradient's norm is {grad_norm}" if math.isfinite(mean_loss) else f"the loss is {mean_loss}"
        )
        rows = self._rows(losses, batches)
        skips = self._non_finite == "skip"
        if skips and in_a_row < IN_A_ROW:
            self.reason = f"{value}; its rows: {rows}"
            return False
        again = f", as it was not at {in_a_row} steps in a row" if skips else ""
        skip = "" if skips else ", or pass over such steps with non_finite=skip"
        raise FloatingPointError(
            f"step {self._state.step}: {value}{again}. Its rows: {rows}. {self._kept()} Lower optimizer.lr, look for a"
            f" damaged row or weight file{skip}"
        )

    def _rows(self, losses: Sequence[float], batches: Sequence[Batch]) -> str:
        """Name the rows of the micro-batches whose loss is not finite; those of all where each is."""
        damaged = [
            row for loss, b in zip(losses, batches, strict=True) if not math.isfinite(loss) for row in b.rows
        ]
        of_ranks = self._world.gather((damaged, [row for batch in batches for row in batch.rows]))
        rows = [row for damaged, _ in of_ranks for row in damaged] or [
            row for _, of_rank in of_ranks for row in of_rank
        ]
        named = ", ".join(place_of(self._dataset, row) for row in rows[:_NAMED])
        return named + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")

    def _kept(self) -> str:
        folder = self._state.last_checkpoint()
        return "There is no checkpoint." if folder is None else f"The last good checkpoint is {folder}."
