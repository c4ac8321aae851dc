"""The part of `two_ranks.py` for `test_lora_training.py`, which runs on each of two ranks."""

import copy
from pathlib import Path
from typing import Any

import torch
from attrs import asdict
from torch import Tensor
from torch.optim import AdamW

from tests.training.tiny import examples, gather_gradients, make_batch, perturb_adapters, place
from torchtune.distributed import World
from torchtune.formats import save_hf_folder, save_peft_adapter
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.placement import ActivationCheckpointing, full_state
from torchtune.training import Lora, NextToken, StepSums, clip_gradients

DORA = Lora(targets=["all-linear"], rank=3, rank_stabilized=True, kind="dora")
EMBEDDINGS = Lora(targets=["q_proj", "embed_tokens"], rank=3, modules_to_save=["norm"])
TRAINED = Lora(targets=["q_proj"], rank=3, modules_to_save=["embed_tokens", "layers.0.input_layernorm"])
CASES: dict[str, dict[str, Any]] = {
    "sharded": {},
    "replicated": {"enable_fsdp": False},
    "matmuls kept": {"activation_checkpointing": ActivationCheckpointing(keep="matmuls")},
    "bf16 sharded": {"dtype": "bf16"},
    "embeddings sharded": {"lora": EMBEDDINGS},
    "embeddings replicated": {"lora": TRAINED, "enable_fsdp": False},
    "trained embeddings sharded": {"lora": TRAINED},
}
ROWS = examples()[:8]
ROWS_BY_RANK = [[[0, 1, 3], [4]], [[2], [5, 6, 7]]]


def uneven_decoder() -> Decoder:
    """Build a model with a feed-forward dimension of 23, which two ranks shard into 12 and 11 rows."""
    with torch.device("meta"):
        return smollm2(
            vocab_size=31,
            num_layers=2,
            embed_dim=16,
            num_heads=4,
            num_kv_heads=2,
            ffn_dim=23,
            max_seq_len=32,
        )


def build_placed(
    world: World, lora: Lora | None = DORA, *, dtype: str = "fp64", enable_fsdp: bool = True, **settings: Any
) -> Decoder:
    model = uneven_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, world, dtype=dtype, enable_fsdp=enable_fsdp, **settings)
    return model


def one_step(world: World, *, dtype: str = "fp64", **settings: Any) -> dict[str, Any]:
    """Take one optimizer step on this rank's part of the rows, as a recipe does."""
    model = build_placed(world, dtype=dtype, **settings)
    initial = copy.deepcopy(full_state(model, world))
    perturb_adapters(model)
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
    trained = [p for p in model.parameters() if p.requires_grad]
    AdamW(trained, lr=0.01, fused=True).step()
    return {
        "loss": sums.means({})["loss"].item(),
        "norm": norm.item(),
        "gradients": gradients,
        "initial": initial,
        "parameters": full_state(model, world),
    }


def initial_adapters(world: World, folder: Path) -> dict[str, Tensor] | None:
    """Load a bf16 base model into shards, and return its initial adapters."""
    return full_state(build_placed(world, dtype="bf16", model_directory=str(folder / "base")), world)


def continued_state(world: World, folder: Path, **settings: Any) -> dict[str, Tensor] | None:
    """Load a saved adapter, to continue its training, into adapters that are sharded if there is more than one rank."""
    lora = Lora(**{**asdict(DORA), "adapter_directory": str(folder / "adapter")})
    model = build_placed(world, lora, **settings)
    lora.load_into(model)
    return full_state(model, world)


def run_cases(world: World, out: Path) -> dict[str, Any]:
    """Return the results of all cases; all ranks must call this function."""
    results: dict[str, Any] = {name: one_step(world, **case) for name, case in CASES.items()}
    single = World(rank=0, size=1, data_rank=0, data_size=1, device=world.device, seed=9)
    if world.is_main:
        save_hf_folder(build_placed(single, None, dtype="fp32"), out / "base")
        adapted = build_placed(single, dtype="fp32")
        perturb_adapters(adapted)
        save_peft_adapter(adapted, out / "adapter", base_model=None)
    world.barrier()
    results["from a folder"] = initial_adapters(world, out)
    results["continued"] = continued_state(world, out)
    return results
