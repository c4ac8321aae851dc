"""The smallest models, rows and worlds that a training test can do with."""

import random

import torch

from torchtune.data import IGNORE_INDEX, Batch, Batches, Example, collate
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder
from torchtune.training import Lora, World, place

VOCAB = 31
ALONE = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=0)


def tiny_decoder() -> Decoder:
    return smollm2(
        vocab_size=VOCAB,
        num_layers=2,
        embed_dim=16,
        num_heads=4,
        num_kv_heads=2,
        ffn_dim=24,
        max_seq_len=32,
    )


def tiny_model(
    dtype: str = "fp64", lora: Lora | None = None, world: World = ALONE, *, enable_fsdp: bool = False
) -> Decoder:
    with torch.device("meta"):
        model = tiny_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, world, dtype=dtype, enable_fsdp=enable_fsdp)
    if lora is not None:
        stir_adapters(model)
    return model


def stir_adapters(model: Decoder) -> None:
    """Move the adapters' zeros, which would hide half of their gradients, in the same way on any number of ranks."""
    for name, p in model.named_parameters():
        if name.endswith("lora_b"):
            p.data.add_(0.01)


def examples(n: int = 11) -> list[Example]:
    """Rows of uneven lengths, each with its own share of targets, the third with none."""
    draw = random.Random(0)
    rows = []
    for i in range(n):
        tokens = [draw.randrange(VOCAB) for _ in range(3 + i % 5 * 3)]
        n_masked = len(tokens) if i == 2 else 1 + i % 3
        rows.append(Example(tokens, [IGNORE_INDEX] * n_masked + tokens[n_masked:]))
    return rows


def batch_of(rows: list[Example]) -> Batch:
    return collate(rows, pad_id=0)


def tiny_batches(batch_size: int = 2, world: World = ALONE) -> Batches:
    return Batches(
        examples(),
        batch_size,
        shuffle=True,
        seed=3,
        pad_id=0,
        rank=world.data_rank,
        size=world.data_size,
    )
