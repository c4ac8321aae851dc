"""Check a config's learning rate schedule."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchtune.checks._field_errors import FieldErrors, errors_of
from torchtune.config import instantiate
from torchtune.training import FinetuneConfig, build_scheduler

_ASSUMED_STEPS = 1_000_000
"""The assumed number of steps if only the dataset determines the length of a run; it exceeds any warm-up."""


def schedule_errors(cfg: Any) -> FieldErrors:
    """Check that a `FinetuneConfig`'s schedule can be built for its optimizer and number of steps."""
    if not isinstance(cfg, FinetuneConfig):
        return
    try:
        optimizer: Optimizer = instantiate(cfg.optimizer, [nn.Parameter(torch.zeros(1, 1))])
    except Exception:  # the optimizer may still accept the model's parameters, so the schedule is not checked
        return
    steps = cfg.step_limit or _ASSUMED_STEPS
    yield from errors_of("lr_scheduler", build_scheduler, cfg.lr_scheduler, optimizer, steps)
