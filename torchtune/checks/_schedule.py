"""What of a config's schedule a run would reject before its first step."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchtune.checks._field_errors import FieldErrors, errors_of
from torchtune.config import instantiate
from torchtune.training import FinetuneConfig, build_scheduler

_MANY_STEPS = 1_000_000
"""The length of a run that only its rows decide: every warm-up fits."""


def schedule_errors(cfg: Any) -> FieldErrors:
    """Check that the schedule of a `FinetuneConfig` can be built for its optimizer and the length of its run."""
    if not isinstance(cfg, FinetuneConfig):
        return
    try:
        optimizer: Optimizer = instantiate(cfg.optimizer, [nn.Parameter(torch.zeros(1, 1))])
    except Exception:  # it may accept the model's parameters nevertheless; the schedule is not checked
        return
    steps = cfg.step_limit or _MANY_STEPS
    yield from errors_of("lr_scheduler", build_scheduler, cfg.lr_scheduler, optimizer, steps)
