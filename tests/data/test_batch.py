"""Collation is compared with a loop over single tokens."""

import pytest
import torch

from torchtune.data import IGNORE_INDEX, Batch, Example, collate

PAD = 9
ROWS = [
    Example([1, 2, 3, 4], [IGNORE_INDEX, IGNORE_INDEX, 3, 4]),
    Example([5, PAD], [IGNORE_INDEX, PAD]),  # Here the padding id is a word the model must learn.
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


def test_counts_are_those_of_the_tensors() -> None:
    batch = collate(ROWS, PAD)
    assert batch.n_targets == int((batch.labels != IGNORE_INDEX).sum()) == 5
    assert batch.n_tokens == sum(len(example.tokens) - 1 for example in ROWS) == 6
    assert sum(example.n_targets for example in ROWS) == batch.n_targets


def test_a_first_token_counts_as_no_target() -> None:
    assert Example([6, 7], [6, IGNORE_INDEX]).n_targets == 0


def test_a_moved_batch_keeps_its_counts() -> None:
    batch = collate(ROWS, PAD)
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.tokens.device == moved.labels.device == torch.device("meta")
    assert (moved.n_targets, moved.n_tokens) == (batch.n_targets, batch.n_tokens)


def test_an_example_that_can_train_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two tokens"):
        Example([1], [1])
    with pytest.raises(ValueError, match="3 tokens has 2 labels"):
        Example([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="at least one example"):
        collate([], PAD)
