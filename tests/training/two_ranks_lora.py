"""What each of two processes does for `test_lora_training.py`; `two_ranks.py` calls it."""

import copy
from pathlib import Path
from typing import Any

import torch
from attrs import asdict
from torch import Tensor
from torch.optim import AdamW

from tests.training.tiny import batch_of, examples, place, stir_adapters, whole_gradients
from torchtune.distributed import World
from torchtune.formats import save_hf_folder, save_peft_adapter
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.training import ActivationCheckpointing, Lora, NextToken, StepSums, clip_gradients, full_state

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
SHARES = [[[0, 1, 3], [4]], [[2], [5, 6, 7]]]


def uneven_decoder() -> Decoder:
    """Build a model of whose feed-forward's 23 rows two ranks hold 12 and 11."""
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


def placed(
    world: World, lora: Lora | None = DORA, *, dtype: str = "fp64", enable_fsdp: bool = True, **how: Any
) -> Decoder:
    model = uneven_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, world, dtype=dtype, enable_fsdp=enable_fsdp, **how)
    return model


def one_step(world: World, *, dtype: str = "fp64", **how: Any) -> dict[str, Any]:
    """Take one optimizer step on this rank's share of the rows, as a recipe does."""
    model = placed(world, dtype=dtype, **how)
    began = copy.deepcopy(full_state(model, world))
    stir_adapters(model)
    shares = SHARES[world.rank] if world.size == 2 else [[i for part in SHARES for b in part for i in b]]
    batches = [batch_of([ROWS[i] for i in rows]) for rows in shares]
    scorer, sums = NextToken(LinearCrossEntropy()), StepSums(batches, world)
    for batch in batches:
        loss = sums.add(scorer(model, batch))
        torch.autograd.backward(loss)
    norm = clip_gradients(model, 0.1)
    gradients = whole_gradients(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    AdamW(trained, lr=0.01, fused=True).step()
    return {
        "loss": sums.means({})["loss"].item(),
        "norm": norm.item(),
        "gradients": gradients,
        "began": began,
        "parameters": full_state(model, world),
    }


def magnitudes_from(world: World, folder: Path) -> dict[str, Tensor] | None:
    """Read a bf16 base into shards, and return the adapters that it begins with."""
    return full_state(placed(world, dtype="bf16", model_directory=str(folder / "base")), world)


def continued(world: World, folder: Path, **how: Any) -> dict[str, Tensor] | None:
    """Load an adapter that is trained further into placed adapters, sharded if there are ranks to shard them."""
    lora = Lora(**{**asdict(DORA), "adapter_directory": str(folder / "adapter")})
    model = placed(world, lora, **how)
    lora.load_into(model)
    return full_state(model, world)


def found_by(world: World, out: Path) -> dict[str, Any]:
    """Take the steps, and read a folder; all ranks must call it."""
    found: dict[str, Any] = {name: one_step(world, **case) for name, case in CASES.items()}
    alone = World(rank=0, size=1, data_rank=0, data_size=1, device=world.device, seed=9)
    if world.is_main:
        save_hf_folder(placed(alone, None, dtype="fp32"), out / "base")
        adapted = placed(alone, dtype="fp32")
        stir_adapters(adapted)
        save_peft_adapter(adapted, out / "adapter", base_model=None)
    world.barrier()
    found["from a folder"] = magnitudes_from(world, out)
    found["continued"] = continued(world, out)
    return found
