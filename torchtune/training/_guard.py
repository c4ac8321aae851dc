"""What happens at a step whose loss or gradient is NaN or infinite."""

import logging
import math
from typing import Any, Literal

import torch
from attrs import define, field
from torch import Tensor
from torch.optim import Optimizer

from torchtune.data import Rows, place_of
from torchtune.distributed import World, checkpoint
from torchtune.internals import skip_where, takes_skips
from torchtune.runs import RunFolder
from torchtune.training._optimizer_errors import step_error
from torchtune.training._scaling import LossScale
from torchtune.training._step_values import StepValues

_logger = logging.getLogger(__name__)

IN_A_ROW = 10
"""Skipped steps in a row after which the run ends with `non_finite="skip"` as well."""
_NAMED = 8
"""Rows that are named at most."""


@define(eq=False)
class Guard:
    """Skips the update of a step whose loss or gradient is not finite, on all ranks alike.

    The update is left out on the device, by optimizers whose kernels can (torch's fused Adam and AdamW);
    for others the host waits for one flag. What happened is judged on the host when the step's numbers arrive there,
    before the next update: the parameters are as they were before the bad step.

    Args:
        non_finite: "stop" ends the run at a step that is not finite; "skip" skips it, unless ten come in a row.
        scale: Of fp16; a gradient that overflows only because of the scale is not an error.
        dataset: Gives the locations of rows.
        world: The ranks of this run.
        folder: The run's folder; error messages name its newest checkpoint.
        on_device: Leave updates out on the device where the optimizer's kernels can; otherwise the host waits for a
            flag.
    """

    _non_finite: Literal["stop", "skip"]
    _scale: LossScale
    _dataset: "Rows[Any]"
    _world: World
    _folder: RunFolder
    _on_device: bool = False
    in_a_row: int = field(default=0, init=False)
    """The number of most recent steps in a row that were skipped because of a NaN or infinite loss or gradient."""
    n_updates: int = field(default=0, init=False)
    """Steps whose update was taken."""

    def update(self, optimizer: Optimizer, loss: Tensor, grad_norm: Tensor, n_targets: Tensor) -> None:
        """Take an optimizer's step, unless loss or gradient is not finite or there is no target; adapt the scale.

        Args:
            optimizer: The optimizer; gradients are those of the step.
            loss: The mean loss over all ranks, a scalar.
            grad_norm: L2 norm of the whole gradient, a scalar.
            n_targets: What the loss was divided by, all counts of all ranks together, a scalar.

        Raises:
            ConfigError: It is the first step, and the optimizer does not support the parameters.
        """
        grad_norm = grad_norm.to(loss.device)
        is_loss_finite, is_norm_finite = torch.isfinite(loss), torch.isfinite(grad_norm)
        skips = ~(is_loss_finite & is_norm_finite) | (n_targets == 0)
        # The flag would be copied to offloaded parameters without waiting for the copy, so they take the plain way.
        is_with_parameters = optimizer.param_groups[0]["params"][0].device.type == skips.device.type
        if self._on_device and is_with_parameters and takes_skips(optimizer):
            skip_where(optimizer, skips)
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

    def judge(self, values: StepValues) -> str | None:
        """Judge a step whose numbers have arrived on the host; all ranks must call it.

        Returns:
            Why the step was skipped; None: it was taken.

        Raises:
            FloatingPointError: It was skipped, and the run has to end; parameters and optimizer are as before it.
        """
        if values.n_counted == 0:
            return "no target token"
        if math.isfinite(values.loss) and math.isfinite(values.grad_norm):
            self.in_a_row = 0
            self.n_updates += 1
            return None
        if math.isfinite(values.loss) and self._scale.explains_overflow(values.loss_scale):
            return f"the gradient overflowed fp16, whose loss scale is {values.loss_scale / 2:g} now"
        self.in_a_row += 1
        return self._reason(values)

    def _reason(self, values: StepValues) -> str:
        is_loss = not math.isfinite(values.loss)
        value = f"the loss is {values.loss}" if is_loss else f"the gradient's norm is {values.grad_norm}"
        rows = self._rows(values)
        skips = self._non_finite == "skip"
        if skips and self.in_a_row < IN_A_ROW:
            return f"{value}; its rows: {rows}"
        again = f", the last of {self.in_a_row} such steps in a row" if skips else ""
        skip = "" if skips else ", or skip such steps with non_finite=skip"
        raise FloatingPointError(
            f"step {values.step}: {value}{again}. Its rows: {rows}. {self._checkpoint()} Lower optimizer.lr, look for a"
            f" damaged row or weight file{skip}"
        )

    def _rows(self, values: StepValues) -> str:
        """Name the rows of the micro-batches whose loss is not finite; all rows if only the gradient is not."""
        batches = list(zip(values.losses, values.micro_batches, strict=True))
        damaged = [row for loss, batch in batches if not math.isfinite(loss) for row in batch.rows]
        of_ranks = self._world.gather((damaged, [row for _, batch in batches for row in batch.rows]))
        rows = [row for damaged, _ in of_ranks for row in damaged] or [
            row for _, every in of_ranks for row in every
        ]
        named = ", ".join(place_of(self._dataset, row) for row in rows[:_NAMED])
        return named + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")

    def _checkpoint(self) -> str:
        folder = checkpoint.newest(self._folder.checkpoints)
        return "There is no checkpoint." if folder is None else f"The last good checkpoint is {folder}."

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {"in_a_row": self.in_a_row, "n_updates": self.n_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the counts of skipped and of taken steps."""
        self.in_a_row, self.n_updates = state["in_a_row"], state["n_updates"]
