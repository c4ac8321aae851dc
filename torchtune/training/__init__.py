"""Building blocks of recipes: starting a run, config sections, scores, optimizer steps, schedules and metrics."""

from torchtune.training._build import (
    build_model,
    build_schedule,
    build_validator,
    count_steps,
    open_datasets,
    save_model,
)
from torchtune.training._checkpoint_saver import CheckpointSaver
from torchtune.training._checkpoints import Checkpoints
from torchtune.training._finetune_config import OPTIMIZER_RANGES, FinetuneConfig
from torchtune.training._flops import peak_flops, step_flops
from torchtune.training._loading import Loading, Packing
from torchtune.training._lora import Lora
from torchtune.training._memory_estimate import MemoryEstimate, estimate_memory
from torchtune.training._metrics import Metrics
from torchtune.training._non_finite import NonFiniteGuard
from torchtune.training._profiling import Profiling
from torchtune.training._readback import Readback
from torchtune.training._run import Run
from torchtune.training._run_memory import (
    ModelConfig,
    OutOfMemoryError,
    batch_shape,
    build_meta_model,
    estimate_run_memory,
    estimate_without_fsdp,
    mapped_bytes,
    memory_savings,
)
from torchtune.training._scaling import LossScale
from torchtune.training._schedules import (
    Schedule,
    build_optimizer,
    build_scheduler,
    constant_with_warmup,
    cosine_with_warmup,
    linear_with_warmup,
    warmup_stable_decay,
)
from torchtune.training._score import (
    NextToken,
    Score,
    Scorer,
    Term,
    aggregate_terms,
    in_compute_dtype,
    target_log_probs,
    target_states,
)
from torchtune.training._sections import section_of
from torchtune.training._start import start
from torchtune.training._state import State, Stateful
from torchtune.training._step import StepSums, clip_gradients
from torchtune.training._step_values import StepValues
from torchtune.training._tokenizer_files import find_tokenizer_files
from torchtune.training._validation import HeldOutSet, Validation, held_out_items
from torchtune.training._validator import Validator

__all__ = [
    "OPTIMIZER_RANGES",
    "CheckpointSaver",
    "Checkpoints",
    "FinetuneConfig",
    "HeldOutSet",
    "Loading",
    "Lora",
    "LossScale",
    "MemoryEstimate",
    "Metrics",
    "ModelConfig",
    "NextToken",
    "NonFiniteGuard",
    "OutOfMemoryError",
    "Packing",
    "Profiling",
    "Readback",
    "Run",
    "Schedule",
    "Score",
    "Scorer",
    "State",
    "Stateful",
    "StepSums",
    "StepValues",
    "Term",
    "Validation",
    "Validator",
    "aggregate_terms",
    "batch_shape",
    "build_meta_model",
    "build_model",
    "build_optimizer",
    "build_schedule",
    "build_scheduler",
    "build_validator",
    "clip_gradients",
    "constant_with_warmup",
    "cosine_with_warmup",
    "count_steps",
    "estimate_memory",
    "estimate_run_memory",
    "estimate_without_fsdp",
    "find_tokenizer_files",
    "held_out_items",
    "in_compute_dtype",
    "linear_with_warmup",
    "mapped_bytes",
    "memory_savings",
    "open_datasets",
    "peak_flops",
    "save_model",
    "section_of",
    "start",
    "step_flops",
    "target_log_probs",
    "target_states",
    "warmup_stable_decay",
]
