"""A recipe whose config class has many fields with rarely used features: unions, aliases, converters, rules."""

import dataclasses
from typing import Any, Literal, NewType, TypedDict

import attrs
import torch
from attrs import define, field

from tests.config import sample
from torchtune import config
from torchtune.config import Component, above, arguments, at_least, lazy, one_of

Seconds = NewType("Seconds", int)


class Sizes(TypedDict):
    """A mapping with declared keys."""

    a: int
    b: str


class Loose(sample.Optimizer):
    """An optimizer that accepts any keyword."""

    def __init__(self, **options: Any) -> None: ...


class ByPosition:
    """A component with a positional-only argument."""

    def __init__(self, x: int, /, k: int = 1) -> None:
        self.x, self.k = x, k


@define(kw_only=True)
class Part:
    """A section."""

    interval: int = field(default=2, validator=above(0))
    """Steps."""
    source: str | None = None
    """A file."""
    words: list[str] = field(factory=list)
    """Words."""


@define(kw_only=True)
class Deep:
    """A second section."""

    mode: str = "slow"
    """The mode."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A section whose constructor accepts positional arguments."""

    p: int = 1
    """A number."""
    q: str = "q"
    """Text."""


def only_a(value: str) -> str:
    """Return "a", or raise KeyError for any other text."""
    return {"a": "a"}[value]


@define(kw_only=True)
class WideConfig:
    """The config of this recipe."""

    output_dir: str = "out"
    steps: int
    limits: dict[str, int] = field(factory=lambda: {"a": 1})
    by_int: dict[int, str] = field(factory=dict)
    mode: Literal["default", "reduce-overhead", "max-autotune"] = "max-autotune"
    switch: Literal["null", "on"] = "on"
    number: Literal["1", "2"] = "2"
    dtype: Literal["fp32", "bf16"] | None = None
    shade: sample.Shade | None = None
    precision: torch.dtype | None = None
    auto: int | Literal["auto"] = "auto"
    word: str = field(default="fast", validator=one_of("fast", "slow"))
    part: Part = field(factory=lambda: Part(interval=3, source="d"))
    part2: Part | None = None
    parts: list[Part] = field(factory=list)
    named: dict[str, Part] = field(factory=dict)
    pairs: tuple[Part, ...] = ()
    frozen: Frozen = field(factory=Frozen)
    picky: str = field(default="a", converter=only_a)
    either: Part | Deep | None = None
    sizes: Sizes = field(factory=lambda: Sizes(a=1, b="x"))
    seconds: Seconds = Seconds(3)
    anything: Any = None
    tags: list[str] = field(factory=list)
    pair: tuple[int, str] = (1, "a")
    optimizer: Component[sample.Optimizer] | Literal["none"] = lazy(sample.Adam, [], lr=2e-5)
    loose: Component[sample.Optimizer] = field(default=lazy(Loose), validator=arguments(lr=at_least(0)))
    maybe: Component[ByPosition] | None = None
    converted: Any = field(default=1, converter=int)
    low: int = 0
    high: int = field(default=10)
    small: int = field(default=1, validator=[above(0), attrs.validators.lt(10)])
    crash: int = field(default=1)

    @high.validator
    def _above_low(self, _: object, value: int) -> None:
        if value < self.low:
            raise ValueError("high must not be below low")

    @crash.validator
    def _positive(self, _: object, value: int) -> None:
        assert value > 0, "crash is not positive"

    def __attrs_post_init__(self) -> None:
        if self.steps > 1000:
            raise ValueError("steps is more than 1000")


@config.parse
def main(cfg: WideConfig) -> None:
    """Do nothing."""
