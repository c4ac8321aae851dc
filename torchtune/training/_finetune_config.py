"""The config fields of every fine-tuning recipe; the config class of a recipe adds its own."""

from typing import Annotated, Any, Literal

from attrs import define, field
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from torchtune.config import (
    Component,
    FieldError,
    LocalPath,
    MayChange,
    Passed,
    Rule,
    above,
    arguments,
    at_least,
    between,
    each,
    lazy,
    not_empty,
    ref,
    share,
)
from torchtune.config.model import dotpath, fields, is_component, kind_mismatch
from torchtune.data import Tokenizer
from torchtune.modules import Decoder
from torchtune.runs import Device
from torchtune.training._checkpoints import Checkpoints
from torchtune.training._loading import Loading
from torchtune.training._placement import Placement
from torchtune.training._profiling import Profiling
from torchtune.training._schedules import cosine_with_warmup
from torchtune.training._validation import Validation
from torchtune.utils.metric_logging import DiskLogger, MetricLogger, check_packages

RATES = arguments(
    lr=at_least(0), betas=each(share()), eps=at_least(0), weight_decay=at_least(0), momentum=at_least(0)
)
"""Ranges of the arguments of torch's optimizers, checked before an optimizer is built."""


def _fits(cfg: "FinetuneConfig", _: object, value: Placement) -> None:
    value.check(dtype=cfg.dtype, enable_fsdp=cfg.enable_fsdp)


def _of_the_same_kind(cfg: "FinetuneConfig", _: object, value: Validation | None) -> None:
    if value is None or value.dataset is None or not isinstance(cfg, FinetuneConfig):
        return
    config_class: type = type(cfg)
    reason = kind_mismatch(value.dataset.func, fields(config_class)["dataset"].type)
    if reason:
        raise FieldError(f"{dotpath(value.dataset.func)} {reason}", "validation.dataset")


_WARMUP = Rule(
    "that is a number of steps, or below 1 a share of the run",
    lambda value: 0 <= value < 1 or (value >= 1 and value == int(value)),
    schema={"anyOf": [{"minimum": 0, "exclusiveMaximum": 1}, {"type": "integer", "minimum": 0}]},
)


def _installed(_cfg: "FinetuneConfig", _attribute: object, value: Any) -> None:
    for logger in value if isinstance(value, list) else [value]:
        kind = logger.func if is_component(logger) else None
        if isinstance(kind, type) and issubclass(kind, MetricLogger):
            try:
                check_packages(kind)
            except ValueError as error:
                raise FieldError(str(error), "metric_logger") from None


@define(kw_only=True)
class FinetuneConfig:
    """The fields that the fine-tuning recipes have in common."""

    output_dir: LocalPath = field(validator=not_empty())
    """Where the run writes: frozen config, metrics, checkpoints and, at its end, the result (`final/`)."""
    seed: int | None = field(default=None, validator=between(0, 2**63 - 1))
    """Seed of the data's order, of dropout and of random weights; null draws one, which the frozen config holds."""
    device: Device = "auto"
    """What to compute on; auto is the first available one of cuda, mps and cpu."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Precision of computing and of frozen weights; auto is bf16 on a GPU that has it, else fp32; fp16 scales the
    loss."""
    enable_fsdp: bool = False
    """Shard weights, gradients and optimizer state across the ranks; otherwise each rank holds them whole."""
    placement: Placement = field(factory=Placement, validator=_fits)
    """Precision of weights, sharding, activation checkpointing, compilation."""

    model: Component[Decoder]
    """The model's architecture."""
    model_directory: LocalPath | None
    """Hugging Face folder that weights are read from; null: random weights."""
    tokenizer: Component[Tokenizer]
    """Text to token ids."""
    tokenizer_directory: LocalPath | None = ref("model_directory")
    """Folder of the tokenizer's files."""

    dataset: Annotated[Component[Dataset[Any]], Passed(1)]
    """The rows, as items of one kind; the recipe passes the tokenizer."""
    shuffle: bool = True
    """Read the examples in a new order every epoch."""
    loading: Loading = field(factory=Loading)
    """How rows become batches: packing, workers, caches."""
    batch_size: int = field(default=4, validator=above(0))
    """Rows of one forward pass on each rank."""
    gradient_accumulation_steps: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Batches of each rank in one optimizer step; a run that resumes with half the ranks needs twice as many."""
    epochs: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """How often every row is read; an epoch ends with a step, which has the rows that are left."""
    max_steps_per_epoch: Annotated[int | None, MayChange()] = field(default=None, validator=above(0))
    """Limits the run to `epochs` times so many optimizer steps; a cut epoch is not started anew: the run reads on where
    it is, so that later rows are read too. Null: no limit."""
    max_steps: Annotated[int | None, MayChange()] = field(default=None, validator=above(0))
    """Optimizer steps of the whole run, regardless of `epochs`; null: as many as the epochs take."""

    optimizer: Annotated[Component[Optimizer], Passed(1)] = field(
        default=lazy(AdamW, lr=2e-5, fused=True), validator=RATES
    )
    """The optimizer; the recipe passes the trained parameters."""
    lr_scheduler: Annotated[Component[LRScheduler] | None, Passed(1)] = field(
        default=lazy(cosine_with_warmup),
        validator=arguments(warmup_steps=_WARMUP, min_ratio=between(0, 1)),
    )
    """Learning rate by optimizer step; the recipe passes the optimizer. Null: constant."""
    clip_grad_norm: float | None = field(default=1.0, validator=above(0))
    """Longer gradients are scaled down to this L2 norm; null: no clipping."""
    non_finite: Annotated[Literal["stop", "skip"], MayChange()] = "stop"
    """What happens at a NaN or infinite loss or gradient: stop ends the run, skip skips up to nine steps in a row."""

    validation: Annotated[Validation | None, MayChange()] = field(default=None, validator=_of_the_same_kind)
    """Held-out rows and how often their loss is computed; null: no validation."""

    metric_logger: Annotated[Component[MetricLogger] | list[Component[MetricLogger]] | None, MayChange()] = (
        field(default=lazy(DiskLogger, log_dir=ref("output_dir")), validator=_installed)
    )
    """Loggers of metrics in addition to `metrics.jsonl`, one or a list; null: none."""
    log_every_n_steps: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Optimizer steps between two calls of the logger; `metrics.jsonl` has every step."""
    profiling: Annotated[Profiling | None, MayChange()] = None
    """Which steps torch.profiler records; null: none."""
    checkpoints: Annotated[Checkpoints, MayChange()] = field(factory=Checkpoints)
    """When checkpoints are written, and which are retained."""

    @property
    def step_limit(self) -> int | None:
        """The optimizer step at which the run ends at the latest; None: it ends with its epochs."""
        if self.max_steps is not None or self.max_steps_per_epoch is None:
            return self.max_steps
        return self.epochs * self.max_steps_per_epoch
