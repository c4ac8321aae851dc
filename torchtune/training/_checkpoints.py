"""The config section for the intervals and the retention of checkpoints."""

from attrs import define, field

from torchtune.config import above


@define(kw_only=True)
class Checkpoints:
    """Intervals and retention of the checkpoints from which a run can resume."""

    every_n_steps: int | None = field(default=100, validator=above(0))
    """Optimizer steps between checkpoints; null: no step-based checkpoints."""
    every_n_minutes: float | None = field(default=None, validator=above(0))
    """Minutes between checkpoints; null: no time-based checkpoints."""
    at_epoch_ends: bool = True
    """Write a checkpoint at the end of each epoch."""
    asynchronous: bool = False
    """Write checkpoints in the background, which requires CPU memory for a copy of the trained state."""
    keep: int = field(default=1, validator=above(0))
    """Number of most recent checkpoints to retain."""
    keep_every_n_steps: int | None = field(default=None, validator=above(0))
    """Also keep every checkpoint whose step is a multiple of this number; null: keep only the most recent ones."""
