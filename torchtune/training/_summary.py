"""The summary of a run that is printed before its first step."""

from collections.abc import Iterator
from typing import Any

from torchtune._pluralize import pluralize
from torchtune.data import Batches
from torchtune.distributed import World
from torchtune.modules import Decoder
from torchtune.placement import resolve_dtype
from torchtune.training._finetune_config import FinetuneConfig

_FEW_STEPS = 10
"""Runs with fewer steps than this barely change a model at typical learning rates."""
_HIGH_PADDING_SHARE = 0.2
"""Fraction of padding above which packing is suggested."""


def start_summary(
    cfg: FinetuneConfig,
    model: Decoder,
    batches: Batches[Any],
    world: World,
    total_steps: int,
) -> Iterator[str]:
    """Yield lines about a run's model, device, data and steps, with hints if there are few steps or a lot of padding.

    Args:
        cfg: The run's config.
        model: The model, already placed on its device.
        batches: The batches of this rank.
        world: The ranks of this run.
        total_steps: Number of optimizer steps in the run, which may be an estimate.
    """
    n_parameters = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained = "all" if n_trained == n_parameters else f"{n_trained:,} ({n_trained / n_parameters:.2%})"
    dtype = resolve_dtype(cfg.dtype, world.device)
    ranks = "" if world.size == 1 else f", {world.size} ranks"
    yield f"model: {n_parameters:,} parameters, {trained} trainable, on {world.device.type}{ranks}, {dtype}"
    unit = "row" if cfg.loading.packing is None else "pack"
    per_step = cfg.batch_size * cfg.gradient_accumulation_steps * world.data_size
    epochs = "" if cfg.max_steps is not None else f", {pluralize(cfg.epochs, 'epoch')}"
    steps = f"{pluralize(total_steps, 'step')} of {pluralize(per_step, unit)}"
    yield f"data: {pluralize(len(batches.dataset), 'row')}; {steps}{epochs}"
    if total_steps < _FEW_STEPS and cfg.step_limit is None:
        shorter_packs = "" if cfg.loading.packing is None else ", or lower loading.packing.length"
        yield (
            f"steps: {pluralize(total_steps, 'optimizer step')} may be too few; raise epochs{shorter_packs}"
        )
    padding = batches.padding_fraction()
    if cfg.loading.packing is None and padding > _HIGH_PADDING_SHARE:
        length = min(2048, model.architecture.max_seq_len)
        yield (
            f"padding: about {padding:.0%} of all positions; loading.packing.length={length} avoids most of it"
        )
