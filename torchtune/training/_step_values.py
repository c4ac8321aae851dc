"""The numbers of one optimizer step on the host."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from torchtune.data import Batch


@frozen(kw_only=True, eq=False)
class StepValues:
    """The numbers of an optimizer step, copied from the device."""

    step: int
    """The step, from 1."""
    loss: float
    """Mean over all ranks: the sum of terms, each divided by its count."""
    grad_norm: float
    """L2 norm of the gradient before it was clipped."""
    lr: float
    """Learning rate of the step, of the first parameter group."""
    loss_scale: float
    """The factor of the loss in the backward pass (`LossScale`)."""
    n_counted: float
    """Sum of all counts of all ranks; 0 if there was nothing to learn."""
    losses: Sequence[float]
    """This rank's part of the loss, micro-batch by micro-batch."""
    micro_batches: Sequence[Batch]
    """The step's micro-batches of this rank."""
    is_last: bool
    """Whether it is the run's last step."""
    n_tokens: float
    """Useful tokens of all ranks, without padding."""
    n_positions: float
    """Positions of all ranks, padding included."""
    n_padding: float
    """Positions of padding."""
    flops: float
    """FLOPs of the step on all ranks (`step_flops`)."""
    reported: Mapping[str, float]
    """Terms, metrics and further numbers of the recipe, by name."""
    seconds: float
    """Time since the step before."""
