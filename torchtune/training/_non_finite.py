"""Handle a NaN or infinite loss or gradient: skip the step, or end the run."""

import logging
import math
from typing import Any, Literal

import torch
from attrs import define, field
from torch import Tensor
from torch.optim import Optimizer

from torchtune.data import Rows, location_of
from torchtune.distributed import World, checkpoint
from torchtune.internals import skip_step_if, supports_skipping
from torchtune.runs import RunFolder
from torchtune.training._optimizer_errors import step_error
from torchtune.training._scaling import LossScale
from torchtune.training._step_values import StepValues

_logger = logging.getLogger(__name__)

MAX_IN_A_ROW = 10
"""Number of consecutive non-finite steps that ends the run even with `non_finite="skip"`."""
_MAX_ROWS_LISTED = 8
"""Maximum number of rows that a message lists."""


@define(eq=False)
class NonFiniteGuard:
    """Skips the update of a step whose loss or gradient is not finite, consistently on all ranks.

    Optimizers whose kernels support it (torch's fused Adam and AdamW) skip the update on the device; for other
    optimizers, the host waits for a flag. `skip_reason` decides whether the run ends. It is called once the step's
    values are on the host, before the next update; the bad step has not changed the parameters.

    Args:
        non_finite: "stop" ends the run at a non-finite step; "skip" skips it, up to nine in a row.
        scale: The loss scale; a gradient that overflows only because of the scale does not end the run.
        dataset: The dataset, for the locations of rows in error messages.
        world: The ranks of this run.
        folder: The run's folder; error messages name its newest checkpoint.
        on_device: Whether to skip updates on the device if the optimizer's kernels support it; otherwise, the host
            always waits for a flag.
    """

    _non_finite: Literal["stop", "skip"]
    _scale: LossScale
    _dataset: "Rows[Any]"
    _world: World
    _folder: RunFolder
    _on_device: bool = False
    in_a_row: int = field(default=0, init=False)
    """Number of consecutive steps, up to the last one, that were skipped because of a non-finite loss or gradient."""
    n_updates: int = field(default=0, init=False)
    """Number of steps whose update was applied."""

    def update(self, optimizer: Optimizer, loss: Tensor, grad_norm: Tensor, n_targets: Tensor) -> None:
        """Step the optimizer, unless the loss or gradient is not finite or no target exists; update the loss scale.

        Args:
            optimizer: The optimizer; its parameters have the gradients of the step.
            loss: The mean loss over all ranks, a scalar.
            grad_norm: L2 norm of the full gradient, a scalar.
            n_targets: The sum of all counts over all ranks, a scalar; 0 if there is no target.

        Raises:
            ConfigError: The optimizer does not support the parameters (raised at the first step only).
        """
        grad_norm = grad_norm.to(loss.device)
        is_loss_finite, is_norm_finite = torch.isfinite(loss), torch.isfinite(grad_norm)
        skips = ~(is_loss_finite & is_norm_finite) | (n_targets == 0)
        # Offloaded parameters do not use the flag: it would be copied to the CPU asynchronously, and read before the
        # copy is complete.
        is_on_parameters_device = optimizer.param_groups[0]["params"][0].device.type == skips.device.type
        if self._on_device and is_on_parameters_device and supports_skipping(optimizer):
            skip_step_if(optimizer, skips)
            self._step(optimizer)
        elif not bool(skips):
            self._step(optimizer)
        self._scale.update(is_loss_finite & ~is_norm_finite)

    def _step(self, optimizer: Optimizer) -> None:
        try:
            optimizer.step()
        except Exception as error:
            mistake = None if self.n_updates else step_error(error, type(optimizer))
            if mistake is None:
                raise
            raise mistake from error

    def skip_reason(self, values: StepValues) -> str | None:
        """Return the reason why a step was skipped, or None if it was not skipped; all ranks must call this.

        Args:
            values: The values of the step, on the host.

        Raises:
            FloatingPointError: The loss or gradient is not finite, and the run ends without updating parameters.
        """
        if values.total_count == 0:
            return "no target token"
        if math.isfinite(values.loss) and math.isfinite(values.grad_norm):
            self.in_a_row = 0
            self.n_updates += 1
            return None
        if math.isfinite(values.loss) and self._scale.explains_overflow(values.loss_scale):
            return f"the gradient overflowed in fp16; loss scale reduced to {values.loss_scale / 2:g}"
        self.in_a_row += 1
        return self._reason(values)

    def _reason(self, values: StepValues) -> str:
        is_loss = not math.isfinite(values.loss)
        value = f"the loss is {values.loss}" if is_loss else f"the gradient's norm is {values.grad_norm}"
        rows = self._rows(values)
        skips = self._non_finite == "skip"
        if skips and self.in_a_row < MAX_IN_A_ROW:
            return f"{value}; rows: {rows}"
        repeats = f", in {self.in_a_row} steps in a row" if skips else ""
        skip_advice = "" if skips else ", or set non_finite=skip to skip such steps"
        raise FloatingPointError(
            f"step {values.step}: {value}{repeats}. Rows: {rows}. {self._checkpoint()} Lower optimizer.lr, look for a"
            f" damaged row or weight file{skip_advice}"
        )

    def _rows(self, values: StepValues) -> str:
        """List the rows of micro-batches with a non-finite loss, or all rows if only the gradient is not finite."""
        batches = list(zip(values.losses, values.micro_batches, strict=True))
        damaged = [row for loss, batch in batches if not math.isfinite(loss) for row in batch.rows]
        by_rank = self._world.gather((damaged, [row for _, batch in batches for row in batch.rows]))
        rows = [row for damaged, _ in by_rank for row in damaged] or [
            row for _, all_rows in by_rank for row in all_rows
        ]
        listed_rows = ", ".join(location_of(self._dataset, row) for row in rows[:_MAX_ROWS_LISTED])
        return listed_rows + (
            f" and {len(rows) - _MAX_ROWS_LISTED} more" if len(rows) > _MAX_ROWS_LISTED else ""
        )

    def _checkpoint(self) -> str:
        folder = checkpoint.newest(self._folder.checkpoints)
        return "There is no checkpoint." if folder is None else f"The last good checkpoint is {folder}."

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for `load_state_dict`."""
        return {"in_a_row": self.in_a_row, "n_updates": self.n_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts of skipped and applied steps."""
        self.in_a_row, self.n_updates = state["in_a_row"], state["n_updates"]
