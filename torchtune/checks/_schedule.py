"""Checks of a config's learning rate schedule."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchtune.checks._field_errors import FieldErrors, errors_of
from torchtune.config import instantiate
from torchtune.training import FinetuneConfig, build_scheduler

_MANY_STEPS = 1_000_000
"""Steps assumed for a run whose length depends only on its dataset: every warm-up fits."""


def schedule_errors(cfg: Any) -> FieldErrors:
    """Check that a `FinetuneConfig`'s schedule can be built for its optimizer and number of steps."""
    if not isinstance(cfg, FinetuneConfig):
        return
    try:
        optimizer: Optimizer = instantiate(cfg.optimizer, [nn.Parameter(torch.zeros(1, 1))])
    except Exception:  # the optimizer may still accept the model's parameters; the schedule is not checked
        return
    steps = cfg.step_limit or _MANY_STEPS
    yield from errors_of("lr_scheduler", build_scheduler, cfg.lr_scheduler, optimizer, steps)
