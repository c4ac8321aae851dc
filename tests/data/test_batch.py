"""Collated batches are compared with the results of a loop over single tokens."""

import random

import pytest
import torch
from attrs import asdict, evolve
from torch import Tensor

from torchtune.data import IGNORE_INDEX, Batch, Example, collate

PAD = 9
ROWS = [
    Example([1, 2, 3, 4], [IGNORE_INDEX, IGNORE_INDEX, 3, 4]),
    Example([5, PAD], [IGNORE_INDEX, PAD]),  # the last target equals the padding id
    Example([6, 7, 8], [6, 7, 8]),
]


def test_each_position_predicts_the_token_that_follows_it() -> None:
    batch = collate(ROWS, PAD)
    for row, example in enumerate(ROWS):
        for i, token in enumerate(example.tokens[:-1]):
            assert batch.tokens[row, i] == token
            assert batch.labels[row, i] == example.labels[i + 1]


def test_padding_is_on_the_right_and_never_a_target() -> None:
    batch = collate(ROWS, PAD)
    assert batch.tokens.shape == batch.labels.shape == (3, 3)
    assert batch.tokens[1].tolist() == [5, PAD, PAD]
    assert batch.labels[1].tolist() == [PAD, IGNORE_INDEX, IGNORE_INDEX]


def test_counts_match_the_tensors() -> None:
    batch = collate(ROWS, PAD)
    assert batch.n_targets == int((batch.labels != IGNORE_INDEX).sum()) == 5
    assert batch.n_tokens == sum(len(example.tokens) - 1 for example in ROWS) == 6
    assert sum(example.n_targets for example in ROWS) == batch.n_targets


def test_the_first_token_is_not_a_target() -> None:
    assert Example([6, 7], [6, IGNORE_INDEX]).n_targets == 0


def packed_rows(seed: int) -> tuple[list[list[Example]], Batch]:
    """Build a batch of random packs in which some examples have no target."""
    draw = random.Random(seed)
    rows = []
    for _ in range(draw.randint(1, 5)):
        row = []
        for _ in range(draw.randint(1, 4)):
            tokens = [draw.randrange(8) for _ in range(draw.randint(2, 9))]
            row.append(Example(tokens, [token if draw.random() < 0.5 else IGNORE_INDEX for token in tokens]))
        rows.append(row)
    return rows, collate(rows, PAD)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_contains_the_position_and_sequence_of_each_target(seed: int) -> None:
    rows, batch = packed_rows(seed)
    positions, sequences, number = [], [], 0
    for row, examples in enumerate(rows):
        column = 0
        for example in examples:
            for i, label in enumerate(example.labels[1:]):
                if label != IGNORE_INDEX:
                    positions.append(row * batch.labels.shape[1] + column + i)
                    sequences.append(number)
            column += example.length
            number += 1
    assert batch.target_positions.tolist() == positions
    assert batch.target_sequences.tolist() == sequences
    assert batch.target_positions.dtype == batch.target_sequences.dtype == torch.int64
    assert batch.n_targets == len(positions)
    sums = batch.sum_by_sequence(torch.ones(len(positions)))
    assert sums.tolist() == [example.n_targets for examples in rows for example in examples]


def test_a_filler_batch_has_the_same_tensors_and_zero_counts() -> None:
    batch = evolve(collate(ROWS, PAD), rows=(1, 2))
    filler = batch.as_filler()
    assert filler.is_filler
    assert all(filler_tensor is tensors(batch)[name] for name, filler_tensor in tensors(filler).items())
    assert (filler.counts, filler.rows, filler.n_tokens) == ({"targets": 0}, (), 0)
    assert filler.n_padding == filler.tokens.numel()


def test_a_batch_already_on_the_device_is_not_copied() -> None:
    _, batch = packed_rows(3)
    assert batch.to("cpu") is batch
    assert batch.to(torch.device("cpu")) is batch


def tensors(batch: Batch) -> dict[str, Tensor | None]:
    """Return all tensors of a batch."""
    named = {name: value for name, value in asdict(batch, recurse=False).items() if isinstance(value, Tensor)}
    return {**named, **batch.values}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_batch_is_moved_in_one_copy(seed: int, device: str) -> None:
    _, plain = packed_rows(seed)
    values = {"advantages": torch.randn(3, 5), "is_long": torch.tensor([True]), "none": torch.empty(0)}
    batch = evolve(plain, values=values)
    moved = batch.to(device, as_one=True)
    for name, tensor in tensors(moved).items():
        before = tensors(batch)[name]
        assert tensor is not None
        assert before is not None
        assert (tensor.device.type, tensor.dtype, tensor.shape) == (device, before.dtype, before.shape)
        assert device == "meta" or tensor.equal(before)
        assert tensor is not before
    storages = {t.untyped_storage()._cdata for t in tensors(moved).values() if t is not None}
    assert len(storages) == 1
    assert moved.counts == batch.counts
    assert (moved.spans, moved.lengths) == (batch.spans, batch.lengths)


def test_a_moved_batch_keeps_its_counts() -> None:
    batch = collate(ROWS, PAD)
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.tokens.device == moved.target_positions.device == torch.device("meta")
    assert (moved.n_targets, moved.n_tokens) == (batch.n_targets, batch.n_tokens)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_is_moved_to_a_gpu_without_synchronization() -> None:
    _, batch = packed_rows(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = batch.to("cuda")
        assert moved.to("cuda") is moved
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, tensor in tensors(moved.to("cpu")).items():
        before = tensors(batch)[name]
        assert tensor is not None
        assert before is not None
        assert tensor.equal(before)


def test_invalid_examples_and_empty_batches_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        Example([1], [1])
    with pytest.raises(ValueError, match="3 tokens need as many labels, got 2"):
        Example([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least one example"):
        collate([], PAD)
