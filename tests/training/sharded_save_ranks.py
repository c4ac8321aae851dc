"""The program that `test_sharded_saving.py` runs on each of four ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen

from tests.training.tiny import SINGLE_RANK, place
from torchtune.distributed import World
from torchtune.formats import save_hf_folder
from torchtune.models.gpt2 import gpt2
from torchtune.models.phi3 import phi3_mini_4k
from torchtune.models.smollm2 import smollm2, smollm2_135m
from torchtune.modules import Decoder
from torchtune.placement import Sharding
from torchtune.training import start

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "num_layers": 2,
    "embed_dim": 12,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 6,
    "ffn_dim": 21,
    "max_seq_len": 32,
}
"""Sizes that four ranks cannot share equally: some ranks have an empty shard of the tensors with 6 or 12 rows."""
MODELS: dict[str, Callable[[], Decoder]] = {
    "smollm2": smollm2_135m,
    "phi3, which fuses tensors": phi3_mini_4k,
    "gpt2, which transposes tensors": gpt2,
}
SHARDINGS: dict[str, dict[str, Any]] = {
    "sharded": {"enable_fsdp": True},
    "hsdp": {"enable_fsdp": True, "sharding": Sharding(replicas=2)},
    "replicated": {},
}
SHARD_BYTES = 1000
"""Maximum size of a weight file, so that each rank writes several files."""
MIB = 2**20


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = 0


def build(name: str, world: World, **settings: Any) -> Decoder:
    """Build a model with random weights, which are the same on any number of ranks."""
    with torch.device("meta"):
        model = Decoder(MODELS[name]().architecture.evolve(**SIZES)) if name in MODELS else large_model()
    place(model, world, dtype="fp32", **settings)
    return model


def large_model() -> Decoder:
    """Build a model of 110 million parameters, whose largest tensors have 50 MB in bfloat16."""
    return smollm2(
        num_layers=8,
        embed_dim=1024,
        num_heads=8,
        num_kv_heads=8,
        head_dim=128,
        max_seq_len=32,
        vocab_size=25_001,
        ffn_dim=1024,
        tied_embeddings=False,
    )


def saved_growth(world: World, folder: Path) -> tuple[int, int]:
    """Save the large model; return the growth of this rank's resident set and the largest tensor (bytes)."""
    model = build("large", world, enable_fsdp=True)
    largest = 2 * max(parameter.numel() for parameter in model.parameters())
    world.barrier()
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="ascii"
    )  # resets VmHWM to the current size: proc(5)
    before = peak_bytes()
    save_hf_folder(model, folder, dtype=torch.bfloat16, shard_bytes=60 * MIB, ranks=world)
    return peak_bytes() - before, largest


def peak_bytes() -> int:
    return 1024 * int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0])


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start(Cfg()) as joined:
        world = evolve(joined, seed=SINGLE_RANK.seed)
        growth = world.gather(saved_growth(world, out / "large"))
        for sharding, settings in SHARDINGS.items():
            for name in MODELS:
                model = build(name, world, **settings)
                for dtype in (None, torch.bfloat16):
                    folder = out / f"{name} {sharding} {dtype}"
                    save_hf_folder(model, folder, dtype=dtype, shard_bytes=SHARD_BYTES, ranks=world)
        if world.is_main:
            torch.save(growth, out / "results.pt")
