"""The program that `test_epochs.py` runs on each rank: two epochs of rows that do not divide evenly into steps."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from attrs import frozen
from torch.optim import SGD

from tests.training.tiny import examples, tiny_model
from torchtune.data import Batches, Example
from torchtune.distributed import World
from torchtune.modules import Decoder, LinearCrossEntropy
from torchtune.placement import full_state
from torchtune.training import NextToken, StepSums, start

LR = 0.5
EPOCHS = 2


class Case(NamedTuple):
    """A run over `n_rows` rows."""

    n_rows: int
    packed_length: int | None
    n_micro_batches: int


CASES = [Case(*case) for case in itertools.product([3, 7, 23], [None, 32], [1, 4])]


@frozen
class Cfg:
    device: str = "cpu"
    seed: int | None = 0


def rows(n: int) -> list[Example]:
    """Build n examples of uneven lengths, each with a target."""
    return [example for example in examples(2 * n) if example.n_targets][:n]


def train(world: World, case: Case) -> dict[str, Any]:
    """Train for two epochs as a recipe does; return the rows and loss of each step, and the final parameters."""
    torch.manual_seed(0)
    model: Decoder = tiny_model(world=world, enable_fsdp=world.size > 1)
    optimizer, scorer = SGD(model.parameters(), lr=LR), NextToken(LinearCrossEntropy())
    batches = Batches(
        rows(case.n_rows),
        1 if case.packed_length else 2,
        shuffle=True,
        seed=3,
        pad_id=0,
        rank=world.data_rank,
        size=world.data_size,
        packed_length=case.packed_length,
        share_prefixes=case.packed_length is not None,
    )
    steps = []
    while batches.epoch < EPOCHS:
        micro_batches = batches.next_step(case.n_micro_batches)
        sums = StepSums(micro_batches, world)
        for batch in micro_batches:
            torch.autograd.backward(sums.add(scorer(model, batch)))
        optimizer.step()
        optimizer.zero_grad()
        counts = world.gather([len(micro_batches), *(row for batch in micro_batches for row in batch.rows)])
        assert len({count for count, *_ in counts}) == 1, "ranks have different numbers of micro-batches"
        loss = sums.means({})["loss"].item()
        steps.append((batches.epoch, sorted(row for _, *numbers in counts for row in numbers), loss))
    return {"steps": steps, "parameters": full_state(model, world)}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with start(Cfg()) as world:
        results = [train(world, case) for case in CASES]
        if world.is_main:
            torch.save(results, out / "results.pt")
