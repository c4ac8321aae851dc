"""The section of a config that says how documents share a row."""

from typing import Literal

from attrs import define, field

from torchtune.config import above


@define(kw_only=True)
class Packing:
    """Several examples in a row, each of which sees itself alone; hardly a position is padding."""

    length: int = field(default=2048, validator=above(1))
    """Positions of a row; a longer example is cut at its end."""
    fit: Literal["best", "first"] = "best"
    """How rows are filled: "best": the longest example goes into the fullest row that has room; "first": in order."""
    window: int = field(default=1024, validator=above(0))
    """Examples that are packed together; more fill rows better, and take more memory."""
    share_prefixes: bool = True
    """Compute what all examples of a row begin with once, such as the prompt's first words or a system message; their
    values and gradients are those of examples apart. With dropout, they draw its masks together."""
