"""A recipe without torch whose components and config cover the features of torchtune.config."""

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from attrs import define, field

from torchtune import config
from torchtune.config import Component, MayChange, Passed, above, lazy, nested, ref


class Optimizer:
    """The declared type of the field `optimizer`."""


class Sgd(Optimizer):
    """Plain gradient descent.

    Args:
        params: Passed by the recipe.
        lr: Learning rate.
        momentum: Momentum factor.
    """

    def __init__(self, params: list[Any], lr: float, momentum: float = 0.0) -> None:
        self.params, self.lr, self.momentum = params, lr, momentum


class Adam(Optimizer):
    """An adaptive optimizer.

    Args:
        params: Passed by the recipe.
        lr: Learning rate.
        betas: Decay rates of the two moments.
        fused: Whether to use one fused kernel.
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
    """A tokenizer protocol."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a string."""


class Letters:
    """A tokenizer of letters."""

    def __init__(self, path: str, lower: bool = False) -> None:
        self.path, self.lower = path, lower

    def encode(self, text: str) -> list[int]:
        """Return the code point of each letter."""
        return [ord(letter) for letter in text]


class Rows:
    """A dataset."""

    def __init__(
        self, tokenizer: Tokenizer, source: str = "rows", packed: bool = False, **options: Any
    ) -> None:
        self.tokenizer, self.source, self.packed, self.options = tokenizer, source, packed, options


def concatenate(tokenizer: Tokenizer, parts: Sequence[Rows], weights: list[float] | None = None) -> Rows:
    """Join datasets.

    Args:
        tokenizer: Passed by the recipe.
        parts: The datasets to join.
        weights: The weight of each dataset.
    """
    joined = Rows(tokenizer)
    joined.options = {"parts": parts, "weights": weights}
    return joined


def unannotated(tokenizer, size=3):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return a value. The function has no return annotation."""
    return tokenizer, size


class Shade(enum.Enum):
    """An enum with text values."""

    LIGHT = "light"
    DARK = "dark"


class Level(enum.IntEnum):
    """An enum whose members are ints."""

    LOW = 1
    HIGH = 2


class Tone(enum.StrEnum):
    """An enum whose members are text."""

    WARM = "warm"
    COOL = "cool"


@define(kw_only=True)
class Validation:
    """A held-out set."""

    interval: int = field(default=10, validator=above(0))
    """Optimizer steps between validations."""
    source: str | None = None
    """A file of rows."""


@define(kw_only=True)
class Config:
    """The config of the sample recipe."""

    output_dir: str
    """The output folder."""
    seed: int | None = None
    """Seed of the random number generators."""
    batch_size: int = field(default=4, validator=above(0))
    """Rows per step."""
    epochs: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Passes over the rows."""
    lr_scale: float = 1.0
    """Factor of the learning rate."""
    shuffle: bool = True
    """Read rows in random order."""
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
    """Arbitrary tags."""
    sizes: tuple[int, ...] = (1, 2)
    """Numbers."""
    limits: dict[str, int] = field(factory=dict)
    """Numbers by name."""
    optimizer: Annotated[Component[Optimizer], Passed(1)] = lazy(Adam, lr=2e-5)
    """The optimizer."""
    tokenizer: Component[Tokenizer] = lazy(Letters, path="${output_dir}/letters")
    """The tokenizer."""
    dataset: Annotated[Component[Rows], Passed(1)] = lazy(Rows, source="train.json")
    """The training data."""
    extra: Annotated[list[Component[Rows]], Passed(1)] = field(factory=list)
    """More training data."""
    validation: Validation | None = None
    """The validation set, if any."""


RUN_CONFIGS: list[Config] = []
"""The configs with which the recipe was run."""


@config.parse
def main(cfg: Config) -> None:
    """Record the config."""
    RUN_CONFIGS.append(cfg)


def plain() -> Config:
    """Return a minimal config."""
    return Config(output_dir="out", batch_size=8)


def rich() -> Config:
    """Return a config that uses every kind of field."""
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
    cfg.validation = Validation(interval=3)
    cfg.validation.source = ref("output_dir")
    return cfg
