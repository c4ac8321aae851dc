"""The program that `test_ranks.py` runs on each of two ranks."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.optim import AdamW

from tests.training import two_ranks_lora
from tests.training.tiny import (
    VOCAB,
    build_state,
    examples,
    gather_gradients,
    make_batch,
    place,
    step_loss,
    tiny_batches,
    tiny_decoder,
    tiny_model,
    tiny_validator,
)
from torchtune.distributed import World, checkpoint
from torchtune.formats import save_hf_folder
from torchtune.generation import Sampling, generate_batch
from torchtune.modules import LinearCrossEntropy
from torchtune.placement import full_state
from torchtune.training import (
    Lora,
    Metrics,
    NextToken,
    StepSums,
    Validation,
    clip_gradients,
    constant_with_warmup,
    start,
)

LORA = Lora(targets=["all-linear"], rank=3)
CASES: dict[str, dict[str, Any]] = {
    "full fp64 sharded": {"lora": None, "dtype": "fp64", "enable_fsdp": True},
    "full fp64 replicated": {"lora": None, "dtype": "fp64", "enable_fsdp": False},
    "full bf16 sharded": {"lora": None, "dtype": "bf16", "enable_fsdp": True},
    "lora fp64 sharded": {"lora": LORA, "dtype": "fp64", "enable_fsdp": True},
    "lora bf16 sharded": {"lora": LORA, "dtype": "bf16", "enable_fsdp": True},
}
ROWS = examples()[:8]  # the second rank has a batch that consists of only the third row, which has no target
ROWS_BY_RANK = [[[0, 1, 3], [4]], [[2], [5, 6, 7]]]


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = None


def one_step(world: World, lora: Lora | None, dtype: str, *, enable_fsdp: bool) -> dict[str, Any]:
    """Take one optimizer step on this rank's part of the rows, as a recipe does."""
    model = tiny_model(dtype, lora, world, enable_fsdp=enable_fsdp)
    batch_rows = (
        ROWS_BY_RANK[world.rank]
        if world.size == 2
        else [[i for part in ROWS_BY_RANK for b in part for i in b]]
    )
    batches = [make_batch([ROWS[i] for i in rows]) for rows in batch_rows]
    scorer, sums = NextToken(LinearCrossEntropy()), StepSums(batches, world)
    for batch in batches:
        loss = sums.add(scorer(model, batch))
        torch.autograd.backward(loss)
    norm = clip_gradients(model, 0.1)
    gradients = gather_gradients(model)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, fused=True)
    optimizer.step()
    return {
        "loss": sums.means({})["loss"].item(),
        "norm": norm.item(),
        "gradients": gradients,
        "parameters": full_state(model, world),
        "n_stored": sum(_local_shard(p).numel() for p in model.parameters()),
    }


def _local_shard(parameter: Tensor) -> Tensor:
    local: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return local


def stop_and_resume(world: World, folder: Path) -> dict[str, Any]:
    """Save a checkpoint in the middle of a run, finish the run, and repeat its second half from the checkpoint."""
    final_states = []
    for resumed in (False, True):
        model = tiny_model("fp32", Lora(targets=["q_proj"], rank=2, dropout=0.5), world, enable_fsdp=True)
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, fused=True)
        batches = tiny_batches(1, world)
        scheduler = constant_with_warmup(optimizer)
        state = build_state(folder, model, optimizer, scheduler, batches, world=world)
        assert state.resume() is resumed
        loss_fn = step_loss(LinearCrossEntropy(), "fp32")
        for step in range(state.step, 6):
            if step == 3 and not resumed:
                state.step = 3
                state.save()
            torch.autograd.backward(loss_fn(model, next(batches)))
            optimizer.step()
            optimizer.zero_grad()
        moments = [_local_shard(s["exp_avg_sq"]).clone() for s in optimizer.state.values()]
        final_states.append((full_state(model, world), moments, torch.get_rng_state()))
    (first, first_moments, first_random), (second, second_moments, second_random) = final_states
    same = all(torch.equal(a, b) for a, b in zip(first_moments, second_moments, strict=True))
    same = same and torch.equal(first_random, second_random)
    if first is not None and second is not None:
        same = same and all(torch.equal(first[name], second[name]) for name in first)
    return {"same on every rank": all(world.gather(same))}


def resume_with_outdated_view(world: World, folder: Path) -> dict[str, Any]:
    """Resume while one rank does not see the newest checkpoint, or any checkpoint, on the shared disk."""
    model = tiny_model("fp32", None, world, enable_fsdp=True)
    optimizer = AdamW(model.parameters(), lr=0.01, fused=True)
    parts = model, optimizer, constant_with_warmup(optimizer), tiny_batches(1, world)
    for step in (1, 2):
        state = build_state(folder, *parts, world=world)
        state.step = step
        state.save(keep=2)
    list_steps = checkpoint.steps
    steps = []
    for visible_steps in ([1], []):
        if world.rank == 1:
            checkpoint.steps = partial(_listed_steps, visible_steps)
        state = build_state(folder, *parts, world=world)
        state.resume()
        steps.append(state.step)
    checkpoint.steps = list_steps
    removed = folder / "checkpoints" / "step_2"
    message = ""
    if world.rank == 1:
        checkpoint._manifest = lambda folder: _checkpoint_manifest(folder / "nowhere")
    try:
        state.resume()
    except ValueError as error:
        message = str(error)
    checkpoint._manifest = _checkpoint_manifest
    return {
        "resumed steps": world.gather(steps),
        "messages": world.gather(message.replace(str(removed), "step_2")),
    }


def _listed_steps(steps: list[int], _folder: Path) -> list[int]:
    return steps


_checkpoint_manifest = checkpoint._manifest


def validate(world: World, folder: Path) -> list[float]:
    """Answer a prompt and validate with three batch sizes; some leave one rank without rows in the last batch."""
    model = tiny_model("fp64", LORA, world, enable_fsdp=world.size > 1)
    losses = []
    for batch_size in (1, 3, 9):
        section = Validation(fraction=0.5, prompts=["abc"], max_new_tokens=4)
        validator = tiny_validator(folder, section, model, batch_size=batch_size, world=world)
        with Metrics(str(folder), [], world, 0, 99) as metrics:
            losses.append(validator.validate(0, metrics))
    return losses


def sampled_answers(world: World) -> list[list[int]]:
    """Sample answers with a different seed on each rank; without rank 0's tokens, the ranks would wait forever."""
    return generate_batch(
        tiny_model("fp64", None, world, enable_fsdp=world.size > 1),
        [[1, 2, 3], [4, 5]],
        max_new_tokens=12,
        stop_ids=range(0, VOCAB, 4),
        sampling=Sampling(temperature=1.5),
        seed=world.rank,
        broadcast=world.broadcast,
    )


def final_folder(world: World, folder: Path) -> dict[str, Any]:
    """Save a sharded model, and load the saved model into shards."""
    model = tiny_model("bf16", None, world, enable_fsdp=True)
    save_hf_folder(model, folder, dtype=torch.bfloat16, shard_bytes=4096, ranks=world)
    world.barrier()
    with torch.device("meta"):
        reloaded = tiny_decoder()
    place(reloaded, world, dtype="bf16", enable_fsdp=True, model_directory=str(folder))
    return {"reloaded": full_state(reloaded, world)}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start(Cfg()) as world:
        assert (world.size, VOCAB) == (2, 31)
        results: dict[str, Any] = {
            "seeds": world.gather(world.seed),
            "draws": world.gather(torch.rand(1).item()),
        }
        fixed = World(rank=world.rank, size=2, data_rank=world.rank, data_size=2, device=world.device, seed=0)
        results["sampled answers"] = world.gather(sampled_answers(fixed))
        for name, case in CASES.items():
            results[name] = one_step(fixed, **case)
        results |= stop_and_resume(fixed, out / "run")
        results |= resume_with_outdated_view(fixed, out / "outdated")
        results["validations"] = world.gather(validate(fixed, out / "validated"))
        results["dora"] = two_ranks_lora.run_cases(fixed, out / "dora")
        results |= final_folder(fixed, out / "final")
        if world.is_main:
            torch.save(results, out / "results.pt")
