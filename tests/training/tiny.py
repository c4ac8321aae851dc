"""Minimal models, rows and worlds for training tests."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import IGNORE_INDEX, Batch, Batches, Example, collate
from torchtune.distributed import World
from torchtune.models.smollm2 import smollm2
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.placement import DTYPES, Placement
from torchtune.training import (
    HeldOutSet,
    Lora,
    NextToken,
    Schedule,
    Score,
    State,
    Stateful,
    StepValues,
    Term,
    Validation,
    Validator,
)

VOCAB = 31
SINGLE_RANK = World(rank=0, size=1, data_rank=0, data_size=1, device=torch.device("cpu"), seed=0)


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


def place(
    model: Decoder,
    world: World,
    *,
    dtype: str,
    enable_fsdp: bool = False,
    model_directory: str | None = None,
    lean_layers: bool = False,
    **settings: Any,
) -> None:
    """Place a model, by default with standard layers."""
    section = Placement(lean_layers=lean_layers, **settings)
    section.place(model, world, model_directory, dtype=dtype, enable_fsdp=enable_fsdp)


def tiny_model(
    dtype: str = "fp64", lora: Lora | None = None, world: World = SINGLE_RANK, *, enable_fsdp: bool = False
) -> Decoder:
    with torch.device("meta"):
        model = tiny_decoder()
    if lora is not None:
        lora.add_to(model)
    place(model, world, dtype=dtype, enable_fsdp=enable_fsdp)
    if lora is not None:
        perturb_adapters(model)
    return model


def perturb_adapters(model: Decoder) -> None:
    """Add a constant to the second matrix of each adapter, whose initial zeros would hide half of the gradients."""
    for name, p in model.named_parameters():
        if name.endswith("lora_b"):
            p.data.add_(0.01)


def gather_gradients(model: Decoder) -> dict[str, Tensor]:
    """Copy the gradients of all trained parameters, gathering sharded ones; all ranks must call this function."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {
        name: (g.full_tensor() if hasattr(g, "full_tensor") else g).clone() for name, g in gradients.items()
    }


def examples(n: int = 11) -> list[Example]:
    """Build rows with different lengths and fractions of targets; the third row has no target."""
    draw = random.Random(0)
    rows = []
    for i in range(n):
        tokens = [draw.randrange(VOCAB) for _ in range(3 + i % 5 * 3)]
        n_masked = len(tokens) if i == 2 else 1 + i % 3
        rows.append(Example(tokens, [IGNORE_INDEX] * n_masked + tokens[n_masked:]))
    return rows


def make_batch(rows: list[Example]) -> Batch:
    return collate(rows, pad_id=0)


def tiny_batches(batch_size: int = 2, world: World = SINGLE_RANK) -> Batches[Example]:
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
    """A tokenizer whose padding id is in the tiny model's vocabulary."""

    pad_id = 0


def step_loss(loss: nn.Module, dtype: str) -> Callable[[Decoder, Batch], Tensor]:
    """Return a function that computes the summed next-token loss of a model on a batch."""

    def compute_loss(model: Decoder, batch: Batch) -> Tensor:
        model.compute_dtype = DTYPES[dtype]
        return NextToken(loss)(model, batch).terms["next_token"].total

    return compute_loss


def build_state(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Batches[Example],
    *,
    world: World = SINGLE_RANK,
    total_steps: int = 99,
    base: str | None = None,
) -> State:
    """Build the `State` of a run with a learning rate schedule and batches."""
    parts: dict[str, Stateful] = {"schedule": Schedule(scheduler, total_steps), "batches": batches}
    return State(str(folder), model, optimizer, parts, world=world, base=base)


def step_values(step: int, batches: list[Batch], **changes: Any) -> StepValues:
    """Return the values of a step over some batches."""
    values: dict[str, Any] = {
        "step": step,
        "loss": 1.0,
        "grad_norm": 3.0,
        "lr": 0.1,
        "loss_scale": 1.0,
        "total_count": float(sum(batch.n_targets for batch in batches)),
        "losses": [1.0] * len(batches),
        "micro_batches": batches,
        "n_tokens": float(sum(batch.n_tokens for batch in batches)),
        "n_positions": float(sum(batch.tokens.numel() for batch in batches)),
        "n_padding": float(sum(batch.n_padding for batch in batches)),
        "flops": 0.0,
        "reported": {},
        "seconds": 2.0,
        "is_last": False,
    }
    return StepValues(**(values | changes))


class NaNLoss(NextToken):
    """A next-token loss that is NaN in the given calls, counted from 1."""

    def __init__(self, calls: tuple[int, ...] = ()) -> None:
        super().__init__(LinearCrossEntropy())
        self._calls, self._n = calls, 0

    def score(self, model: Any, batch: Any) -> Score:
        self._n += 1
        total = super().score(model, batch).terms["next_token"].total
        return Score({"next_token": Term(total * (math.nan if self._n in self._calls else 1.0))})


def tiny_validator(
    folder: Path,
    section: Validation,
    model: Decoder,
    *,
    batch_size: int = 3,
    world: World = SINGLE_RANK,
    save: Callable[[], None] | None = None,
) -> Validator:
    """Build a validator for the tiny rows that have a target and for the prompts of a section.

    Args:
        folder: The run's folder.
        section: The validation section.
        model: The model.
        batch_size: Rows per forward pass.
        world: The ranks of the run.
        save: Saves the best model; None: only the folder `best/` is created.
    """
    rows = [example for example in examples() if example.n_targets]
    return Validator(
        HeldOutSet(section, rows, [[1, 2, 3] for _ in section.prompts]),
        model,
        NextToken(LinearCrossEntropy(reduction="sum")),
        SmallTokenizer(),
        batch_size,
        world,
        str(folder),
        save or (lambda: (folder / "best").mkdir(exist_ok=True)),
    )
