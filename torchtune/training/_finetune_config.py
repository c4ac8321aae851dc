"""What every fine-tuning recipe reads; a recipe's own config class adds what only it needs."""

from typing import Annotated, Any, Literal

from attrs import define, field
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from torchtune.config import (
    Component,
    FieldError,
    MayChange,
    Passed,
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
from torchtune.data import Encoded, Example, Tokenizer
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.runs import Device
from torchtune.training._activations import ActivationCheckpointing
from torchtune.training._packing import Packing
from torchtune.training._profiling import Profiling
from torchtune.training._schedules import cosine_with_warmup
from torchtune.training._sharding import Sharding
from torchtune.training._validation import Validation
from torchtune.utils.metric_logging import DiskLogger, MetricLogger, check_packages

RATES = arguments(
    lr=at_least(0), betas=each(share()), eps=at_least(0), weight_decay=at_least(0), momentum=at_least(0)
)
"""What torch's optimizers demand of their arguments, known before one is built."""


def _beside_bf16(cfg: "FinetuneConfig", _: object, value: str) -> None:
    if value == "bf16" and cfg.dtype != "bf16":
        message = "bf16 needs dtype=bf16; what is held in less than it computes in gains nothing"
        raise FieldError(message, "weights_dtype", "dtype")


def _beside_fsdp(cfg: "FinetuneConfig", _: object, value: Sharding | None) -> None:
    if value is not None and not cfg.enable_fsdp:
        message = "nothing is split without enable_fsdp=true; set that, or leave sharding out"
        raise FieldError(message, "sharding", "enable_fsdp")


def _beside_offloading(cfg: "FinetuneConfig", _: object, value: bool) -> None:
    if cfg.activation_checkpointing is not None:
        try:
            cfg.activation_checkpointing.check(compiles=value)
        except FieldError as error:
            raise FieldError(str(error), "compile", "activation_checkpointing") from None


def _installed(_cfg: "FinetuneConfig", _attribute: object, value: Any) -> None:
    for logger in value if isinstance(value, list) else [value]:
        kind = getattr(logger, "func", None)
        if isinstance(kind, type) and issubclass(kind, MetricLogger):
            try:
                check_packages(kind)
            except ValueError as error:
                raise FieldError(str(error), "metric_logger") from None


def _without_packing(cfg: "FinetuneConfig", _: object, value: bool) -> None:
    if value and cfg.packing is not None:
        message = "without effect on packed rows, which are all of one length; leave one out"
        raise FieldError(message, "group_by_length", "packing")


@define(kw_only=True)
class FinetuneConfig:
    """The fields that the fine-tuning recipes have in common."""

    output_dir: str = field(validator=not_empty())
    """Where the run writes: frozen config, metrics, checkpoints and, at its end, the result (`final/`)."""
    seed: int | None = field(default=None, validator=between(0, 2**63 - 1))
    """Seed of the data's order, of dropout and of random weights; null draws one, which the frozen config holds."""
    device: Device = "auto"
    """What to compute on; auto is the first that is there of cuda, mps and cpu."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of computing and of frozen weights; fp16 scales the loss."""
    weights_dtype: Literal["fp32", "bf16"] = field(default="fp32", validator=_beside_bf16)
    """Precision of trained weights, their gradients and the optimizer's state; bf16 halves them, beside dtype bf16."""
    enable_fsdp: bool = False
    """Split weights, gradients and optimizer state over the ranks; otherwise each holds them whole."""
    sharding: Sharding | None = field(default=None, validator=_beside_fsdp)
    """How they are split; null: over all ranks."""
    activation_checkpointing: ActivationCheckpointing | None = None
    """What the backward pass computes again instead of keeping it; null: everything is kept."""
    lean_layers: bool = True
    """Layers that keep less for the backward pass and copy less, equal to the plain ones but for the order of sums.
    Plain ones are taken where they are compiled, and with keep=matmuls."""
    compile: bool = field(default=False, validator=_beside_offloading)
    """Compile every layer by torch.compile; the first steps take minutes, the others less."""

    model: Component[Decoder]
    """The model's architecture."""
    model_directory: str | None
    """Hugging Face folder that weights are read from; null: random weights."""
    tokenizer: Component[Tokenizer]
    """Text to token ids."""
    tokenizer_directory: str | None = ref("model_directory")
    """Folder of the tokenizer's files."""

    dataset: Annotated[Component[Dataset[Encoded[Example]]], Passed(1)]
    """The examples; the recipe passes the tokenizer."""
    shuffle: bool = True
    """Read the examples in a new order every epoch."""
    packing: Packing | None = None
    """Rows that hold several examples; null: each holds one, and is filled up to the longest of its batch."""
    group_by_length: bool = field(default=False, validator=_without_packing)
    """Bring examples of like length together, which are not packed; saves padding, and makes the order less random."""
    data_workers: Annotated[int, MayChange()] = field(default=1, validator=at_least(0))
    """Processes of each rank that encode examples ahead; 0: each is encoded when it is needed."""
    token_cache: Annotated[str | None, MayChange()] = None
    """Folder of encoded rows, which any number of runs share; null: rows are encoded whenever they are read."""
    batch_size: int = field(default=4, validator=above(0))
    """Rows of one forward pass on each rank."""
    gradient_accumulation_steps: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Batches of each rank in one optimizer step; a run that goes on with half the ranks takes twice as many."""
    epochs: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """How often every example is read."""
    max_steps_per_epoch: Annotated[int | None, MayChange()] = field(default=None, validator=above(0))
    """Optimizer steps that end an epoch early; the next goes on with examples not yet seen. Null: no end."""
    max_steps: Annotated[int | None, MayChange()] = field(default=None, validator=above(0))
    """Optimizer steps of the whole run, whatever `epochs` comes to; null: what it comes to."""

    loss: Annotated[Component[nn.Module], Passed(0, reduction="sum")] = lazy(LinearCrossEntropy)
    """Loss of target tokens: a LinearCrossEntropy, or any loss on (logits, labels); the recipe sums."""
    optimizer: Annotated[Component[Optimizer], Passed(1)] = field(
        default=lazy(AdamW, lr=2e-5, fused=True), validator=RATES
    )
    """The optimizer; the recipe passes the trained parameters."""
    lr_scheduler: Annotated[Component[LRScheduler] | None, Passed(1)] = field(
        default=lazy(cosine_with_warmup),
        validator=arguments(warmup_steps=at_least(0), min_ratio=between(0, 1)),
    )
    """Learning rate by optimizer step; the recipe passes the optimizer. Null: constant."""
    clip_grad_norm: float | None = field(default=1.0, validator=above(0))
    """L2 norm that a longer gradient is scaled down to; null: none is."""
    non_finite: Annotated[Literal["stop", "skip"], MayChange()] = "stop"
    """What a loss or gradient that is no number does: end the run, or pass over its step, unless ten come in a row."""

    validation: Annotated[Validation | None, MayChange()] = None
    """Rows that are not trained on, whose loss is looked at every so often; null: there are none."""

    metric_logger: Annotated[Component[MetricLogger] | list[Component[MetricLogger]] | None, MayChange()] = (
        field(default=lazy(DiskLogger, log_dir=ref("output_dir")), validator=_installed)
    )
    """Where metrics go besides `metrics.jsonl`, one logger or a list; null: nowhere."""
    log_every_n_steps: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """Optimizer steps between two calls of the logger; `metrics.jsonl` has every step."""
    profiling: Annotated[Profiling | None, MayChange()] = None
    """Which steps torch.profiler records; null: none."""
    save_every_n_steps: Annotated[int | None, MayChange()] = field(default=100, validator=above(0))
    """Optimizer steps between two checkpoints, from which an interrupted run goes on; null: they bring none."""
    save_every_n_minutes: Annotated[float | None, MayChange()] = field(default=None, validator=above(0))
    """Minutes between two checkpoints; null: time brings none."""
    save_at_epoch_ends: Annotated[bool, MayChange()] = True
    """Write a checkpoint whenever every example was read once more."""
    async_checkpoints: Annotated[bool, MayChange()] = False
    """Write checkpoints while the run goes on; takes a copy of the trained state in CPU memory meanwhile."""
    keep_checkpoints: Annotated[int, MayChange()] = field(default=1, validator=above(0))
    """How many checkpoints stay: the newest."""
    keep_every_n_steps: Annotated[int | None, MayChange()] = field(default=None, validator=above(0))
    """Checkpoints of steps that this divides stay besides; null: none do."""
