"""What a recipe stands on: the processes of a run, its precision and sharding, its state, schedules and metrics."""

from torchtune.models import check_vocabulary
from torchtune.training._activations import ActivationCheckpointing
from torchtune.training._checkpoints import Checkpoints
from torchtune.training._finetune_config import RATES, FinetuneConfig
from torchtune.training._flops import peak_flops, step_flops
from torchtune.training._from_config import (
    count_steps,
    open_datasets,
    open_metrics,
    open_state,
    open_validator,
    save_model,
)
from torchtune.training._guard import Guard
from torchtune.training._loading import Loading, Packing
from torchtune.training._lora import Lora
from torchtune.training._memory import (
    ModelConfig,
    OutOfMemoryError,
    batch_of,
    mapped_bytes,
    memory_savings,
    model_of,
    needs_of,
)
from torchtune.training._metrics import Metrics
from torchtune.training._needs import Needs, needs, size_text
from torchtune.training._placement import DTYPES, Placement, whole_state
from torchtune.training._profiling import Profiling
from torchtune.training._saving import Saving
from torchtune.training._scaling import LossScale
from torchtune.training._schedules import (
    build_optimizer,
    build_scheduler,
    constant_with_warmup,
    cosine_with_warmup,
    linear_with_warmup,
    steps_in,
    warmup_stable_decay,
)
from torchtune.training._sections import section_of
from torchtune.training._sharding import Sharding
from torchtune.training._signals import Stopped
from torchtune.training._start import start
from torchtune.training._state import State
from torchtune.training._step import clip_gradients, step_loss
from torchtune.training._validation import Validation, Validator
from torchtune.training._world import World, pick_device

__all__ = [
    "DTYPES",
    "RATES",
    "ActivationCheckpointing",
    "Checkpoints",
    "FinetuneConfig",
    "Guard",
    "Loading",
    "Lora",
    "LossScale",
    "Metrics",
    "ModelConfig",
    "Needs",
    "OutOfMemoryError",
    "Packing",
    "Placement",
    "Profiling",
    "Saving",
    "Sharding",
    "State",
    "Stopped",
    "Validation",
    "Validator",
    "World",
    "batch_of",
    "build_optimizer",
    "build_scheduler",
    "check_vocabulary",
    "clip_gradients",
    "constant_with_warmup",
    "cosine_with_warmup",
    "count_steps",
    "linear_with_warmup",
    "mapped_bytes",
    "memory_savings",
    "model_of",
    "needs",
    "needs_of",
    "open_datasets",
    "open_metrics",
    "open_state",
    "open_validator",
    "peak_flops",
    "pick_device",
    "save_model",
    "section_of",
    "size_text",
    "start",
    "step_flops",
    "step_loss",
    "steps_in",
    "warmup_stable_decay",
    "whole_state",
]
