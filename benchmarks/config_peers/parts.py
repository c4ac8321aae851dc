"""Six components that do not need torch, and a config class that contains them."""

from typing import Annotated, Any

from attrs import define, field

from torchtune import config
from torchtune.config import Component, Passed, above, at_least, lazy


class Model:
    """A model.

    Args:
        layers: Number of layers.
        width: Width of a layer.
        dropout: Dropout probability.
    """

    def __init__(self, layers: int = 12, width: int = 768, dropout: float = 0.0) -> None:
        self.layers, self.width, self.dropout = layers, width, dropout


class Tokenizer:
    """A tokenizer.

    Args:
        path: The tokenizer's file.
        lower: Convert text to lower case.
    """

    def __init__(self, path: str, lower: bool = False) -> None:
        self.path, self.lower = path, lower


class Dataset:
    """A dataset.

    Args:
        source: The dataset's file.
        packed: Pack rows.
        columns: Column names.
    """

    def __init__(self, source: str, packed: bool = False, columns: list[str] | None = None) -> None:
        self.source, self.packed, self.columns = source, packed, columns


class Optimizer:
    """An optimizer.

    Args:
        lr: Learning rate.
        betas: Decay rates of the moments.
        weight_decay: Weight decay.
    """

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
    ) -> None:
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay


class Schedule:
    """A schedule.

    Args:
        warmup: Warm-up steps.
        total: Total steps.
    """

    def __init__(self, warmup: int = 0, total: int = 100) -> None:
        self.warmup, self.total = warmup, total


class Logger:
    """A logger.

    Args:
        log_dir: Output folder.
        interval: Steps between log lines.
    """

    def __init__(self, log_dir: str, interval: int = 1) -> None:
        self.log_dir, self.interval = log_dir, interval


COMPONENTS = ("model", "tokenizer", "dataset", "optimizer", "schedule", "logger")


@define(kw_only=True)
class Config:
    """A config with forty fields."""

    output_dir: str = "out"
    """Output folder."""
    seed: int | None = None
    """Seed."""
    shuffle: bool = True
    """Shuffle the rows."""
    device: str = "cpu"
    """Device."""
    dtype: str = "fp32"
    """Precision."""
    batch_size: int = field(default=4, validator=above(0))
    """Rows per batch."""
    epochs: int = field(default=1, validator=above(0))
    """Number of epochs."""
    lr_scale: float = field(default=1.0, validator=at_least(0))
    """Factor applied to the learning rate."""
    tags: list[str] = field(factory=list)
    """Tags of the run."""
    note: str | None = None
    """Note about the run."""
    model: Component[Model] = lazy(Model)
    """The model."""
    tokenizer: Component[Tokenizer] = lazy(Tokenizer, path="${output_dir}/tokenizer")
    """The tokenizer."""
    dataset: Component[Dataset] = lazy(Dataset, source="rows.json")
    """The dataset."""
    optimizer: Component[Optimizer] = lazy(Optimizer)
    """The optimizer."""
    schedule: Annotated[Component[Schedule], Passed(0)] = lazy(Schedule)
    """The schedule."""
    logger: Component[Logger] = lazy(Logger, log_dir="${output_dir}")
    """The logger."""
    a1: int = 1
    a2: int = 2
    a3: int = 3
    a4: int = 4
    a5: int = 5
    a6: int = 6
    b1: float = 0.1
    b2: float = 0.2
    b3: float = 0.3
    b4: float = 0.4
    b5: float = 0.5
    b6: float = 0.6
    c1: str = "one"
    c2: str = "two"
    c3: str = "three"
    c4: str = "four"
    c5: str = "five"
    c6: str = "six"
    d1: bool = True
    d2: bool = False
    d3: bool = True
    d4: bool = False
    d5: bool = True
    d6: bool = False


@config.parse
def main(cfg: Config) -> None:
    """Build every component."""
    for name in COMPONENTS:
        config.instantiate(getattr(cfg, name))


YAML: dict[str, Any] = {
    "output_dir": "runs/bench",
    "seed": 3,
    "batch_size": 8,
    "tags": ["a", "b"],
    "model": {"_component_": "benchmarks.config_peers.parts.Model", "layers": 6, "width": 256},
    "tokenizer": {"_component_": "benchmarks.config_peers.parts.Tokenizer", "path": "${output_dir}/t.json"},
    "dataset": {
        "_component_": "benchmarks.config_peers.parts.Dataset",
        "source": "x.json",
        "packed": True,
        "columns": ["q", "a"],
    },
    "optimizer": {
        "_component_": "benchmarks.config_peers.parts.Optimizer",
        "lr": 2.0e-5,
        "betas": [0.9, 0.95],
    },
    "schedule": {"_component_": "benchmarks.config_peers.parts.Schedule", "warmup": 10},
    "logger": {
        "_component_": "benchmarks.config_peers.parts.Logger",
        "log_dir": "${output_dir}/logs",
        "interval": 5,
    },
}
"""Fields that differ from the defaults; OmegaConf and hydra, which have no config class, read a file with all forty."""

OVERRIDES = (("batch_size", "16"), ("optimizer.lr", "1e-4"), ("output_dir", "runs/other"))
