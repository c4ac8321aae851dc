"""The config fields that all fine-tuning recipes share; each recipe's config class adds further fields."""

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
    fraction,
    lazy,
    not_empty,
    ref,
)
from torchtune.config.model import dotpath, fields, is_component, item_type_mismatch
from torchtune.data import Tokenizer
from torchtune.modules import Decoder
from torchtune.placement import Placement
from torchtune.runs import Device
from torchtune.training._checkpoints import Checkpoints
from torchtune.training._loading import Loading
from torchtune.training._profiling import Profiling
from torchtune.training._schedules import cosine_with_warmup
from torchtune.training._validation import Validation
from torchtune.utils.metric_logging import DiskLogger, MetricLogger, check_packages

OPTIMIZER_RANGES = arguments(
    lr=at_least(0), betas=each(fraction()), eps=at_least(0), weight_decay=at_least(0), momentum=at_least(0)
)
"""Valid ranges of the arguments of torch's optimizers, checked before an optimizer is built."""


def _check_placement(cfg: "FinetuneConfig", _: object, value: Placement) -> None:
    value.check(dtype=cfg.dtype, enable_fsdp=cfg.enable_fsdp, device=cfg.device)


def _check_validation_dataset(cfg: "FinetuneConfig", _: object, value: Validation | None) -> None:
    if value is None or value.dataset is None or not isinstance(cfg, FinetuneConfig):
        return
    config_class: type = type(cfg)
    reason = item_type_mismatch(value.dataset.func, fields(config_class)["dataset"].type)
    if reason:
        raise FieldError(f"{dotpath(value.dataset.func)} {reason}", "validation.dataset")


_WARMUP = Rule(
    "that is a whole number of steps, or a fraction of the run (less than 1)",
    lambda value: 0 <= value < 1 or (value >= 1 and value == int(value)),
    schema={"anyOf": [{"minimum": 0, "exclusiveMaximum": 1}, {"type": "integer", "minimum": 0}]},
)


def _check_packages(_cfg: "FinetuneConfig", _attribute: object, value: Any) -> None:
    for logger in value if isinstance(value, list) else [value]:
        kind = logger.func if is_component(logger) else None
        if isinstance(kind, type) and issubclass(kind, MetricLogger):
            try:
                check_packages(kind)
            except ValueError as error:
                raise FieldError(str(error), "metric_logger") from None


@define(kw_only=True)
class FinetuneConfig:
    """The fields that all fine-tuning recipes share."""

    output_dir: LocalPath = field(validator=not_empty())
    """Folder for the frozen config, metrics, checkpoints and the final model (`final/`)."""
    seed: int | None = field(default=None, validator=between(0, 2**63 - 1))
    """Seed for the data order, dropout and random weights; null: a random seed, which the frozen config records."""
    device: Device = "auto"
    """Device to train on; auto: the first available of cuda, mps and cpu."""
    deterministic: bool = False
    """Use deterministic algorithms, so that repeating a run on the same GPUs gives bit-for-bit identical results; this
    is slower. A run on a CPU is repeatable without this setting."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision, and precision of frozen weights; auto: bf16 on GPUs that support it, else fp32. fp16 uses loss
    scaling."""
    enable_fsdp: bool = False
    """Shard weights, gradients and optimizer state across ranks; false: each rank has a full copy."""
    placement: Placement = field(factory=Placement, validator=_check_placement)
    """Precision of weights, sharding, activation checkpointing and compilation."""

    model: Component[Decoder]
    """The model's architecture."""
    model_directory: LocalPath | None
    """Hugging Face folder to load the weights from; null: random weights."""
    tokenizer: Component[Tokenizer]
    """The tokenizer, which encodes text as token ids."""
    tokenizer_directory: LocalPath | None = ref("model_directory")
    """Folder that contains the tokenizer's files."""

    dataset: Annotated[Component[Dataset[Any]], Passed(1)]
    """The training dataset; the recipe passes the tokenizer."""
    shuffle: bool = True
    """Shuffle the examples in every epoch."""
    loading: Loading = field(factory=Loading)
    """Reading and batching of rows: packing, workers, token cache."""
    batch_size: int = field(default=4, validator=above(0))
    """Number of examples (or packs) per forward pass on each rank."""
    gradient_accumulation_steps: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Number of micro-batches per optimizer step on each rank. Double it to resume with half as many ranks."""
    epochs: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Number of passes over the dataset. The last optimizer step of an epoch may have fewer rows."""
    max_steps_per_epoch: Annotated[int | None, MayChange()] = field(default=None, validator=above(0))
    """Limit the run to `epochs` times this number of optimizer steps; null: no limit. The limit does not
    restart the dataset: the next epoch continues with the following rows."""
    max_steps: Annotated[int | None, MayChange()] = field(default=None, validator=above(0))
    """Total number of optimizer steps, regardless of `epochs`; null: determined by `epochs`."""

    optimizer: Annotated[Component[Optimizer], Passed(1)] = field(
        default=lazy(AdamW, lr=2e-5, fused=True), validator=OPTIMIZER_RANGES
    )
    """The optimizer; the recipe passes the trainable parameters."""
    lr_scheduler: Annotated[Component[LRScheduler] | None, Passed(1)] = field(
        default=lazy(cosine_with_warmup),
        validator=arguments(warmup_steps=_WARMUP, min_ratio=between(0, 1)),
    )
    """The learning rate schedule; the recipe passes the optimizer. Null: constant."""
    clip_grad_norm: float | None = field(default=1.0, validator=above(0))
    """Maximum L2 norm of the gradient; a larger gradient is scaled down to it; null: no clipping."""
    non_finite: Annotated[Literal["stop", "skip"], MayChange()] = "stop"
    """Action if the loss or gradient is NaN or infinite. stop: end the run; skip: skip the step, up to nine in a
    row."""

    validation: Annotated[Validation | None, MayChange()] = field(
        default=None, validator=_check_validation_dataset
    )
    """Validation on held-out rows; null: no validation."""

    metric_logger: Annotated[Component[MetricLogger] | list[Component[MetricLogger]] | None, MayChange()] = (
        field(default=lazy(DiskLogger, log_dir=ref("output_dir")), validator=_check_packages)
    )
    """One or more loggers that receive metrics in addition to `metrics.jsonl`; null: none."""
    log_every_n_steps: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Number of optimizer steps between calls to the loggers; `metrics.jsonl` always contains every step."""
    profiling: Annotated[Profiling | None, MayChange()] = None
    """The steps that torch.profiler records; null: no profiling."""
    checkpoints: Annotated[Checkpoints, MayChange()] = field(factory=Checkpoints)
    """Intervals and retention of checkpoints."""

    @property
    def step_limit(self) -> int | None:
        """The maximum number of optimizer steps; None: the run ends with its epochs."""
        if self.max_steps is not None or self.max_steps_per_epoch is None:
            return self.max_steps
        return self.epochs * self.max_steps_per_epoch
