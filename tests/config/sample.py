"""A recipe without torch, whose components and config cover what the engine must handle."""

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from attrs import define, field

from torchtune import config
from torchtune.config import Component, MayChange, Passed, above, lazy, nested, ref


class Optimizer:
    """What the field `optimizer` takes."""


class Sgd(Optimizer):
    """Plain steps.

    Args:
        params: Passed by the recipe.
        lr: Learning rate.
        momentum: Share of the last step that is kept.
    """

    def __init__(self, params: list[Any], lr: float, momentum: float = 0.0) -> None:
        self.params, self.lr, self.momentum = params, lr, momentum


class Adam(Optimizer):
    """Adaptive steps.

    Args:
        params: Passed by the recipe.
        lr: Learning rate.
        betas: Decay of the two moments.
        fused: One kernel for all.
    """

    def __init__(
        self,
        params: list[Any],
        lr: float | bytes = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        fused: bool | None = None,
    ) -> None:
        self.params, self.lr, self.betas, self.fused = params, lr, betas, fused


class Tokenizer(Protocol):
    """What reads text."""

    def encode(self, text: str) -> list[int]:
        """Return ids."""


class Letters:
    """A tokenizer of letters."""

    def __init__(self, path: str, lower: bool = False) -> None:
        self.path, self.lower = path, lower

    def encode(self, text: str) -> list[int]:
        """Return a number for each letter."""
        return [ord(letter) for letter in text]


class Rows:
    """A dataset."""

    def __init__(self, tokenizer: Tokenizer, source: str = "rows", packed: bool = False, **rest: Any) -> None:
        self.tokenizer, self.source, self.packed, self.rest = tokenizer, source, packed, rest


def concatenate(tokenizer: Tokenizer, parts: Sequence[Rows], weights: list[float] | None = None) -> Rows:
    """Join datasets.

    Args:
        tokenizer: Passed by the recipe.
        parts: What is joined.
        weights: Share of each.
    """
    joined = Rows(tokenizer)
    joined.rest = {"parts": parts, "weights": weights}
    return joined


def unannotated(tokenizer, size=3):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Builds something, without saying what."""
    return tokenizer, size


class Shade(enum.Enum):
    """An enum with text for values."""

    LIGHT = "light"
    DARK = "dark"


class Level(enum.IntEnum):
    """An enum that is a number."""

    LOW = 1
    HIGH = 2


class Tone(enum.StrEnum):
    """An enum that is text."""

    WARM = "warm"
    COOL = "cool"


@define(kw_only=True)
class Validation:
    """A held-out set."""

    every: int = field(default=10, validator=above(0))
    """Optimizer steps between two."""
    source: str | None = None
    """File of rows."""


@define(kw_only=True)
class Config:
    """Everything the sample recipe reads."""

    output_dir: str
    """Where the run writes."""
    seed: int | None = None
    """Seed of everything random."""
    batch_size: int = field(default=4, validator=above(0))
    """Rows in a step."""
    epochs: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Passes over the rows."""
    lr_scale: float = 1.0
    """Factor of the learning rate."""
    shuffle: bool = True
    """Draw rows in random order."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision."""
    shade: Shade = Shade.LIGHT
    """An enum."""
    level: Level = Level.LOW
    """An enum of numbers."""
    tone: Tone = Tone.WARM
    """An enum of text."""
    folder: Path = Path("data")
    """A path."""
    tags: list[str] = field(factory=list)
    """Free words."""
    sizes: tuple[int, ...] = (1, 2)
    """Numbers."""
    limits: dict[str, int] = field(factory=dict)
    """Numbers by name."""
    optimizer: Annotated[Component[Optimizer], Passed(1)] = lazy(Adam, lr=2e-5)
    """What changes the weights."""
    tokenizer: Component[Tokenizer] = lazy(Letters, path="${output_dir}/letters")
    """What reads text."""
    dataset: Annotated[Component[Rows], Passed(1)] = lazy(Rows, source="train.json")
    """What is learnt from."""
    extra: Annotated[list[Component[Rows]], Passed(1)] = field(factory=list)
    """More of it."""
    validation: Validation | None = None
    """What is held out, if anything."""


RAN: list[Config] = []
"""Configs that the recipe ran with."""


@config.parse
def main(cfg: Config) -> None:
    """Remember the config."""
    RAN.append(cfg)


def plain() -> Config:
    """The nearest config."""
    return Config(output_dir="out", batch_size=8)


def rich() -> Config:
    """A config that uses every kind of field."""
    cfg = plain()
    cfg.shade = Shade.DARK
    cfg.tags = ["a", "no", "1e-4", "${not}"[:0] + "12:30"]
    cfg.limits = {"a": 1}
    cfg.optimizer = lazy(
        Adam,
        lr=1e-5,
        betas=(0.8, 0.9),
    )
    cfg.dataset = lazy(
        concatenate,
        parts=[nested(Rows, nested(Letters, "x"), source="b"), ref("dataset.parts.0")],
    )
    cfg.extra = [lazy(Rows, source="${folder}/more.json"), lazy(Rows, packed=True)]
    cfg.validation = Validation(every=3)
    cfg.validation.source = ref("output_dir")
    return cfg
