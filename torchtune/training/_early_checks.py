"""What of a config's rows and schedule a run would reject before its first step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import nn
from torch.optim import Optimizer

from torchtune.config import instantiate
from torchtune.data import Encoded, Rows, Tokenizer
from torchtune.distributed import World
from torchtune.modules import Decoder
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._schedules import build_scheduler

_MANY_STEPS = 1_000_000
"""The length of a run that only its rows decide: every warm-up fits."""


def row_errors(
    cfg: Any, tokenizer: Tokenizer, rows: Rows[Any], sample: Sequence[Encoded[Any]], model: Decoder
) -> Iterator[tuple[str, Exception]]:
    """Check that a run finds a target in its rows.

    Args:
        cfg: A config; nothing is checked if it is no `FinetuneConfig`.
        tokenizer: Built from it.
        rows: Built from it.
        sample: Some of them, encoded; only if none has a target, as many are read as by a run.
        model: Limits the length of sequences; it may be on the meta device.
    """
    if not isinstance(cfg, FinetuneConfig) or not sample:
        return
    loading = evolve(cfg.loading, workers=0, token_cache=None)
    alone = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=0)

    def count_steps(some: Any) -> int:
        batches = loading.batches(some, tokenizer, model, alone, batch_size=cfg.batch_size, logs=False)
        return batches.steps_in(1)

    try:
        count_steps(sample)
    except ValueError:
        yield from _error("dataset", count_steps, rows)


def schedule_errors(cfg: Any) -> Iterator[tuple[str, Exception]]:
    """Check that the schedule of a `FinetuneConfig` can be built for its optimizer and the length of its run."""
    if not isinstance(cfg, FinetuneConfig):
        return
    try:
        optimizer: Optimizer = instantiate(cfg.optimizer, [nn.Parameter(torch.zeros(1, 1))])
    except Exception:  # it may accept the model's parameters nevertheless; the schedule is not checked
        return
    steps = cfg.step_limit or _MANY_STEPS
    yield from _error("lr_scheduler", build_scheduler, cfg.lr_scheduler, optimizer, steps)


def _error(field: str, check: Callable[..., object], *arguments: Any) -> Iterator[tuple[str, Exception]]:
    try:
        check(*arguments)
    except (OSError, ValueError) as error:
        yield field, error
