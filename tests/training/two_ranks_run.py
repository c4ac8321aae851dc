"""The program that `test_two_rank_run.py` runs on each of two ranks."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch.optim import AdamW

from configs_py.smollm2 import smollm2_135m_full
from tests.training.tiny import NaNLoss, tiny_batches, tiny_model, tiny_validator
from torchtune.distributed import Stopped, World
from torchtune.placement import full_state
from torchtune.training import (
    Checkpoints,
    FinetuneConfig,
    Run,
    Schedule,
    StepSums,
    Validation,
    clip_gradients,
    linear_with_warmup,
    start,
)

N_STEPS = 8


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = 0


def config(folder: Path, **changes: Any) -> FinetuneConfig:
    fields: dict[str, Any] = {
        "output_dir": str(folder),
        "metric_logger": None,
        "model_directory": None,
        "tokenizer_directory": None,
        "max_steps": N_STEPS,
        "checkpoints": Checkpoints(every_n_steps=3, at_epoch_ends=False, asynchronous=True),
    }
    return evolve(smollm2_135m_full(), **(fields | changes))


def train(
    cfg: FinetuneConfig,
    world: World,
    *,
    synchronous: bool,
    bad_calls: tuple[int, ...] = (),
    stops_after: int | None = None,
    section: Validation | None = None,
) -> dict[str, Any]:
    """Train as a recipe does; only rank 1 has NaN losses and receives a signal to stop."""
    torch.manual_seed(world.rank)
    folder = Path(cfg.output_dir)
    model = tiny_model("fp32", None, world, enable_fsdp=True)
    optimizer = AdamW(model.parameters(), lr=0.01, fused=True)
    batches = tiny_batches(1, world)
    schedule = Schedule(linear_with_warmup(optimizer, total_steps=N_STEPS), N_STEPS)
    section = section or Validation(fraction=0.5, every_n_steps=2)
    validator = tiny_validator(folder, section, model, world=world)
    scorer = NaNLoss(bad_calls if world.rank == 1 else ())
    parts = {"validator": validator}
    run = Run(cfg, model, optimizer, schedule, batches, world, parts=parts, synchronous=synchronous)
    error = ""
    try:
        with run:
            validator.validate_if_due(run)
            while not (run.is_complete or validator.should_stop):
                micro_batches = batches.next_step(2)
                sums = StepSums(micro_batches, world)
                for batch in micro_batches:
                    torch.autograd.backward(sums.add(scorer(model, batch)))
                run.update(sums, clip_gradients(model, 1.0, run.loss_scale.factor))
                optimizer.zero_grad()
                validator.validate_if_due(run)
                if run.step == stops_after and world.rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                run.save_if_due()
    except (Stopped, FloatingPointError) as stop:
        error = str(stop)
    return {"step": run.step, "error": error, "parameters": full_state(model, world)}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start(Cfg()) as joined:
        world = evolve(joined, seed=0)
        results: dict[str, Any] = {}
        for synchronous in (True, False):
            for name, kind in (("skipped", "skip"), ("ended", "stop")):
                cfg = config(out / f"{name} {synchronous}", non_finite=kind)
                results[f"{name} {synchronous}"] = train(cfg, world, synchronous=synchronous, bad_calls=(5,))
        cut = config(out / "cut", non_finite="skip")
        results["stopped"] = train(cut, world, synchronous=False, bad_calls=(5,), stops_after=4)
        results["resumed"] = train(cut, world, synchronous=False)
        early_stopping = Validation(fraction=0.5, every_n_steps=1, patience=2, min_improvement=9.0)
        results["early"] = train(config(out / "early"), world, synchronous=False, section=early_stopping)
        outcomes = world.gather({name: (r["step"], r["error"]) for name, r in results.items()})
        if world.is_main:
            torch.save({"results": results, "outcomes": outcomes}, out / "results.pt")
