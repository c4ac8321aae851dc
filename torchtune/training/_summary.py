"""What a run says before its first step."""

from collections.abc import Iterator
from typing import Any

from torchtune._counted import counted
from torchtune.data import Batches
from torchtune.distributed import World
from torchtune.modules import Decoder
from torchtune.training._finetune_config import FinetuneConfig
from torchtune.training._placement import resolve_dtype

_FEW_STEPS = 10
"""Steps below which a run changes next to nothing, at usual learning rates."""
_MUCH_PADDING = 0.2
"""Share of positions from which packing is suggested."""


def start_summary(
    cfg: FinetuneConfig,
    model: Decoder,
    batches: Batches[Any],
    world: World,
    total_steps: int,
) -> Iterator[str]:
    """Yield the lines that describe a run: model, device, data, steps, and padding if it is much, or steps if few.

    Args:
        cfg: The run's config.
        model: Placed.
        batches: The batches of this rank.
        world: The ranks of this run.
        total_steps: Optimizer steps of the run, which may be an estimate.
    """
    n_parameters = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained = "all" if n_trained == n_parameters else f"{n_trained:,} ({n_trained / n_parameters:.2%})"
    dtype = resolve_dtype(cfg.dtype, world.device)
    ranks = "" if world.size == 1 else f", {world.size} ranks"
    yield f"model: {n_parameters:,} parameters, {trained} of them trained, on {world.device.type}{ranks}, {dtype}"
    unit = "row" if cfg.loading.packing is None else "pack"
    per_step = cfg.batch_size * cfg.gradient_accumulation_steps * world.data_size
    about = "" if cfg.max_steps is not None else f", {counted(cfg.epochs, 'epoch')}"
    steps = f"{counted(total_steps, 'step')} of {counted(per_step, unit)}"
    yield f"data: {counted(len(batches.dataset), 'row')}; {steps}{about}"
    if total_steps < _FEW_STEPS and cfg.step_limit is None:
        fewer = "" if cfg.loading.packing is None else ", or set a smaller loading.packing.length"
        yield (
            f"steps: {counted(total_steps, 'optimizer step')} may teach the model little; raise epochs{fewer}"
        )
    padding = batches.padding_share()
    if cfg.loading.packing is None and padding > _MUCH_PADDING:
        length = min(2048, model.architecture.max_seq_len)
        yield (
            f"padding: about {padding:.0%} of all positions; loading.packing.length={length} leaves almost none of it"
        )
