"""The smallest models, rows and worlds that a training test can do with."""

import random
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import IGNORE_INDEX, Batch, Batches, Example, collate
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.training import Lora, Metrics, State, Validation, Validator, World, place, step_loss
from torchtune.training._validation import HeldOut

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


def whole_gradients(model: Decoder) -> dict[str, Tensor]:
    """Copy the gradients of all trained parameters, gathered if they are sharded; all ranks must call it."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {
        name: (g.full_tensor() if hasattr(g, "full_tensor") else g).clone() for name, g in gradients.items()
    }


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


def tiny_batches(batch_size: int = 2, world: World = ALONE) -> Batches[Example]:
    return Batches(
        examples(),
        batch_size,
        shuffle=True,
        seed=3,
        pad_id=0,
        rank=world.data_rank,
        size=world.data_size,
    )


class SmallTokenizer(ByteTokenizer):
    """Fills rows up with an id that the tiny model has."""

    pad_id = 0


def tiny_validator(
    folder: Path,
    section: Validation,
    model: Decoder,
    *,
    batch_size: int = 3,
    world: World = ALONE,
    total_steps: int = 99,
) -> Validator:
    """Make what looks at those of the rows that have a target, and asks a prompt."""
    optimizer = SGD(model.parameters(), lr=0.1)
    batches = Batches(examples(), 2, shuffle=True, seed=0, pad_id=0)
    schedule = LambdaLR(optimizer, lambda _: 1.0)
    state = State(str(folder), model, optimizer, schedule, batches, world=world, total_steps=total_steps)
    rows = [example for example in examples() if example.n_targets]
    return Validator(
        HeldOut(section, rows, [[1, 2, 3] for _ in section.prompts]),
        model=model,
        loss_fn=step_loss(LinearCrossEntropy(reduction="sum"), "fp64"),
        tokenizer=SmallTokenizer(),
        batch_size=batch_size,
        state=state,
        metrics=Metrics(str(folder), [], world, 0, total_steps),
        world=world,
        save=lambda name: (folder / name).mkdir(exist_ok=True),
    )
