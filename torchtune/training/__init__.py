"""What a recipe stands on: the processes of a run, its precision and sharding, its state, schedules and metrics."""

from torchtune.models import check_vocabulary
from torchtune.training._data import open_batches
from torchtune.training._finetune_config import RATES, FinetuneConfig
from torchtune.training._lora import Lora
from torchtune.training._metrics import Metrics
from torchtune.training._needs import Needs, needs
from torchtune.training._packing import Packing
from torchtune.training._placement import DTYPES, place, whole_state
from torchtune.training._schedules import (
    build_scheduler,
    constant_with_warmup,
    cosine_with_warmup,
    count_steps,
    linear_with_warmup,
)
from torchtune.training._state import State
from torchtune.training._step import StepLoss, clip_gradients, step_loss
from torchtune.training._world import Device, World, check_device, pick_device, start

__all__ = [
    "DTYPES",
    "RATES",
    "Device",
    "FinetuneConfig",
    "Lora",
    "Metrics",
    "Needs",
    "Packing",
    "State",
    "StepLoss",
    "World",
    "build_scheduler",
    "check_device",
    "check_vocabulary",
    "clip_gradients",
    "constant_with_warmup",
    "cosine_with_warmup",
    "count_steps",
    "linear_with_warmup",
    "needs",
    "open_batches",
    "pick_device",
    "place",
    "start",
    "step_loss",
    "whole_state",
]
