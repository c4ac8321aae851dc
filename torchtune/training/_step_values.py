"""The values of one optimizer step on the host."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from torchtune.data import Batch


@frozen(kw_only=True, eq=False)
class StepValues:
    """The values of an optimizer step, copied from the device."""

    step: int
    """The optimizer step, counted from 1."""
    loss: float
    """The loss over all ranks: the sum of its terms, each divided by its count."""
    grad_norm: float
    """L2 norm of the gradient before clipping."""
    lr: float
    """Learning rate of the first parameter group."""
    loss_scale: float
    """The factor by which the loss is multiplied in the backward pass (`LossScale`)."""
    total_count: float
    """Sum of all counts over all ranks; 0 if the step has no targets."""
    losses: Sequence[float]
    """The contribution of each of this rank's micro-batches to the loss."""
    micro_batches: Sequence[Batch]
    """This rank's micro-batches in the step."""
    is_last: bool
    """Whether this is the run's last step."""
    n_tokens: float
    """Number of tokens on all ranks, not including padding."""
    n_positions: float
    """Number of positions on all ranks, including padding."""
    n_padding: float
    """Number of padding positions on all ranks."""
    flops: float
    """FLOPs of the step on all ranks (`step_flops`)."""
    reported: Mapping[str, float]
    """Terms, metrics and additional values from the recipe, by name."""
    seconds: float
    """Duration of the step (s)."""
