"""A recipe whose config nests components and sections deeply, and has rules about multiple fields."""

import dataclasses
from typing import Any

import torch
from attrs import define, field

from tests.config import sample
from torchtune import config
from torchtune.config import Component, arguments, at_least, each, fraction, lazy


class Inner:
    """A component that is used as an argument of another component."""

    def __init__(self, size: int = 1) -> None: ...


class Outer:
    """A component whose arguments include components, some in unions with strings."""

    def __init__(
        self,
        inner: Inner | None = None,
        named: Inner | str = "inner",
        parts: list[Inner] | None = None,
        table: dict[str, float] | None = None,
        words: dict[int, str] | None = None,
        anything: Any = None,
    ) -> None: ...


@dataclasses.dataclass(kw_only=True)
class Window:
    """A section that is a dataclass."""

    low: int = 0
    """Lower bound."""
    high: int = 10
    """Upper bound."""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must not be above high")


@define(kw_only=True)
class DeepConfig:
    """The config of this recipe."""

    output_dir: str = "out"
    """The output folder."""
    precision: torch.dtype = torch.float32
    """A dtype."""
    window: Window = field(factory=Window)
    """A range."""
    other: Window | None = None
    """An optional range."""
    outer: Component[Outer] = lazy(Outer)
    """A component."""
    outers: dict[str, Component[Outer]] = field(factory=dict)
    """Components by name."""
    optimizer: Component[sample.Optimizer] = field(
        default=lazy(sample.Sgd, [], lr=0.1), validator=arguments(lr=at_least(0), betas=each(fraction()))
    )
    """The optimizer."""
    start: int = 0
    """First step."""
    end: int = 10
    """Last step."""
    prefix: str = "a"
    """Text."""
    label: str = "b"
    """More text."""
    span: int = field()
    """The number of steps, computed from other fields."""

    @span.default
    def _span(self) -> int:
        return self.end - self.start

    def __attrs_post_init__(self) -> None:
        if self.start > self.end:
            raise ValueError("start is after end")


@config.parse
def main(cfg: DeepConfig) -> None:
    """Do nothing."""
