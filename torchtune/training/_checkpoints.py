"""The section of a config that sets when checkpoints are written, and which stay."""

from attrs import define, field

from torchtune.config import above


@define(kw_only=True)
class Checkpoints:
    """When a run writes checkpoints, from which it resumes if it is interrupted, and which of them it keeps."""

    every_n_steps: int | None = field(default=100, validator=above(0))
    """Optimizer steps between two checkpoints; null: none are written by step."""
    every_n_minutes: float | None = field(default=None, validator=above(0))
    """Minutes between two checkpoints; null: none are written by time."""
    at_epoch_ends: bool = True
    """Write a checkpoint after every epoch."""
    asynchronous: bool = False
    """Write checkpoints while training continues; takes a copy of the trained state in CPU memory meanwhile."""
    keep: int = field(default=1, validator=above(0))
    """How many checkpoints stay: the newest."""
    keep_every_n_steps: int | None = field(default=None, validator=above(0))
    """Checkpoints of steps that this divides stay as well; null: none do."""
