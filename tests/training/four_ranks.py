"""The program that `test_sharding.py` runs on each of four ranks."""

from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from torch.optim import AdamW

from tests.training.tiny import SINGLE_RANK, examples, make_batch, perturb_adapters, place, tiny_decoder
from torchtune.distributed import World
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.placement import ActivationCheckpointing, Sharding
from torchtune.training import Lora, NextToken, StepSums, clip_gradients, start

ADAPTERS = Lora(targets=["all-linear"], rank=3)
KEEP_MATMULS = ActivationCheckpointing(keep="matmuls")
REDUCED_ONCE: dict[str, dict[str, Any]] = {
    "fsdp": {},
    "hsdp": {"sharding": Sharding(replicas=2)},
    "not sharded": {"enable_fsdp": False},
    "offloaded": {"sharding": Sharding(cpu_offload=True)},
    "untied": {"tied_embeddings": False},
    "bf16": {"dtype": "bf16"},
    "lora": {"lora": ADAPTERS},
}
"""Cases whose gradients are reduced once per step instead of in every micro-batch."""
CASES: dict[str, dict[str, Any]] = {
    "fsdp": {},
    "hsdp": {"sharding": Sharding(replicas=2)},
    "replicated": {"sharding": Sharding(replicas=4)},
    "gathered": {"sharding": Sharding(reshard_after_forward=False)},
    "offloaded": {"sharding": Sharding(cpu_offload=True)},
    "offloaded hsdp": {"sharding": Sharding(replicas=2, cpu_offload=True)},
    "checkpointed": {"activation_checkpointing": ActivationCheckpointing(offload=True)},
    "checkpointed hsdp": {"sharding": Sharding(replicas=2), "activation_checkpointing": KEEP_MATMULS},
    "lora hsdp": {
        "lora": ADAPTERS,
        "sharding": Sharding(replicas=2),
        "activation_checkpointing": KEEP_MATMULS,
    },
    "bf16 checkpointed": {"dtype": "bf16", "activation_checkpointing": KEEP_MATMULS},
    "bf16 plain": {"dtype": "bf16"},
    "pure bf16": {"dtype": "bf16", "weights_dtype": "bf16"},
    "untied": {"tied_embeddings": False},
    **{
        f"reduced once, {name}": {**case, "reduce_gradients_once": True}
        for name, case in REDUCED_ONCE.items()
    },
}
ROWS = examples()[:8]
ROWS_BY_RANK = [[[0, 1, 3], [4]], [[2], [5]], [[6], [2]], [[2, 2], [7]]]
"""The rows of each rank's batches. The third row has no target, so some batches have no target."""


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = 0


def build_model(
    world: World,
    *,
    lora: Lora | None = None,
    dtype: str = "fp64",
    enable_fsdp: bool = True,
    tied_embeddings: bool = True,
    **settings: Any,
) -> Decoder:
    with torch.device("meta"):
        model = Decoder(tiny_decoder().architecture.evolve(tied_embeddings=tied_embeddings))
    if lora is not None:
        lora.add_to(model)
    place(model, world, dtype=dtype, enable_fsdp=enable_fsdp, **settings)
    perturb_adapters(model)
    return model


def one_step(world: World, *, dtype: str = "fp64", **settings: Any) -> dict[str, Any]:
    """Take one optimizer step on this rank's part of the rows, as a recipe does."""
    model = build_model(world, dtype=dtype, **settings)
    batch_rows = (
        ROWS_BY_RANK[world.rank]
        if world.size == 4
        else [[i for part in ROWS_BY_RANK for b in part for i in b]]
    )
    batches = [make_batch([ROWS[i] for i in rows]) for rows in batch_rows]
    scorer, sums = NextToken(LinearCrossEntropy()), StepSums(batches, world)
    scorer.before_step(model, batches)
    gathered, is_reduced = [], []
    for batch in batches:
        loss = sums.add(scorer(model, batch))
        gathered.append(not is_dtensor(next(model.layers[0].parameters())))
        torch.autograd.backward(loss)
        is_reduced.append(any(p.grad is not None for p in model.parameters()))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: full_tensor(p.grad) for name, p in trained.items() if p.grad is not None}
    norm = clip_gradients(model, 0.1)
    clipped = {name: full_tensor(p.grad) for name, p in trained.items() if p.grad is not None}
    AdamW(trained.values(), lr=0.01, fused=True).step()
    return {
        "loss": sums.means({})["loss"].item(),
        "norm": norm.item(),
        "gradients": before,
        "clipped": clipped,
        "parameters": {name: full_tensor(p.detach()) for name, p in trained.items()},
        "n_stored": sum(local_shard(p).numel() for p in model.parameters()),
        "gathered": gathered,
        "is_reduced": is_reduced,
    }


def is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.clone()


def local_shard(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start(Cfg()) as world:
        assert world.size == 4
        assert world.seed == SINGLE_RANK.seed
        results = {name: one_step(world, **case) for name, case in CASES.items()}
        same = all(
            torch.equal(mine, other)
            for case in results.values()
            for states in [world.gather(case["parameters"])]
            for state in states
            for mine, other in zip(case["parameters"].values(), state.values(), strict=True)
        )
        if world.is_main:
            torch.save({"cases": results, "same on every rank": same}, out / "results.pt")
