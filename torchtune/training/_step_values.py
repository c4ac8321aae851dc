"""The numbers of one optimizer step on the host."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from torchtune.data import Batch


@frozen(kw_only=True, eq=False)
class StepValues:
    """What is known of an optimizer step once its numbers have been copied from the device."""

    step: int
    """The step, from 1."""
    loss: float
    """Mean over all ranks: every term divided by its count."""
    grad_norm: float
    """L2 norm of the gradient before it was clipped."""
    lr: float
    """Learning rate of the step, of the first parameter group."""
    loss_scale: float
    """What the loss was multiplied by (`LossScale`)."""
    n_counted: float
    """All counts of all ranks together; 0 where there was nothing to learn."""
    losses: Sequence[float]
    """This rank's part of the loss, micro-batch by micro-batch."""
    micro_batches: Sequence[Batch]
    """The step's micro-batches of this rank."""
    n_tokens: float
    """Useful tokens of all ranks, without padding."""
    n_positions: float
    """Positions of all ranks that were computed."""
    n_padding: float
    """Those of them that hold no token."""
    flops: float
    """Operations of the step on all ranks, as `step_flops` counts them."""
    reported: Mapping[str, float]
    """Terms, metrics and what else the recipe reports, by name."""
    seconds: float
    """Time since the step before."""
