"""The order of batches is compared with a brute force over small datasets and numbers of ranks."""

import itertools
from collections import Counter

import pytest

from torchtune.data import Batches, Example


def rows(n: int) -> list[Example]:
    """Make examples whose first token is their number."""
    return [Example([i, i], [i, i]) for i in range(n)]


def numbers(batches: Batches, calls: int) -> list[list[int]]:
    """Draw batches and name the rows in them."""
    return [next(batches).tokens[:, 0].tolist() for _ in range(calls)]


def stream(n: int, batch_size: int, size: int, calls: int, *, shuffle: bool = True) -> list[int]:
    """Draw on every rank and put what they read in one order, call by call and rank by rank."""
    ranks = [
        Batches(rows(n), batch_size, shuffle=shuffle, seed=3, pad_id=0, rank=rank, size=size)
        for rank in range(size)
    ]
    drawn = [numbers(batches, calls) for batches in ranks]
    return [number for call in range(calls) for rank in range(size) for number in drawn[rank][call]]


SHAPES = list(itertools.product([1, 2, 5, 8], [1, 2, 3], [1, 2, 3]))


@pytest.mark.parametrize(("n", "batch_size", "size"), SHAPES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_holds_every_row_once(n: int, batch_size: int, size: int, shuffle: bool) -> None:
    calls = -(-3 * n // (batch_size * size))
    order = stream(n, batch_size, size, calls, shuffle=shuffle)
    for epoch in range(3):
        assert Counter(order[epoch * n : (epoch + 1) * n]) == Counter(range(n))


@pytest.mark.parametrize("n", [1, 5, 8])
def test_the_order_is_the_same_for_any_number_of_ranks(n: int) -> None:
    alone = stream(n, batch_size=1, size=1, calls=24)
    for batch_size, size in itertools.product([1, 2, 3], [1, 2, 3, 4]):
        shared = stream(n, batch_size, size, calls=24)
        assert shared[:24] == alone


def test_an_optimizer_step_reads_the_same_rows_however_they_are_shared_out() -> None:
    four_ranks = stream(5, batch_size=2, size=4, calls=6)
    two_ranks_with_two_micro_batches = stream(5, batch_size=2, size=2, calls=12)
    assert four_ranks == two_ranks_with_two_micro_batches


def test_the_last_batch_of_an_epoch_is_filled_from_the_next() -> None:
    batches = Batches(rows(5), 2, shuffle=False, seed=0, pad_id=0)
    assert numbers(batches, 5) == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    assert batches.epoch == 2


@pytest.mark.parametrize(("n", "batch_size", "size"), SHAPES)
def test_the_batches_counted_are_the_fewest_that_hold_every_row(n: int, batch_size: int, size: int) -> None:
    for epochs in (1, 2, 3):
        batches = Batches(rows(n), batch_size, shuffle=True, seed=3, pad_id=0, size=size)
        calls = batches.batches_in(epochs)
        wanted = Counter(dict.fromkeys(range(n), epochs))
        assert wanted <= Counter(stream(n, batch_size, size, calls))
        assert not wanted <= Counter(stream(n, batch_size, size, calls - 1))
    assert batches.batches_per_epoch == batches.batches_in(1)


@pytest.mark.parametrize("stop", range(8))
def test_a_resumed_stream_equals_the_unbroken_one(stop: int) -> None:
    unbroken = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    expected = numbers(unbroken, 12)
    first = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    before = numbers(first, stop)
    second = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    second.load_state_dict(first.state_dict())
    assert before + numbers(second, 12 - stop) == expected


def test_a_stream_resumes_on_another_number_of_ranks() -> None:
    expected = stream(5, batch_size=2, size=2, calls=4)
    first = Batches(rows(5), 2, shuffle=True, seed=3, pad_id=0, size=2)
    numbers(first, 2)
    alone = Batches(rows(5), 4, shuffle=True, seed=3, pad_id=0)
    alone.load_state_dict(first.state_dict())
    assert list(itertools.chain(*numbers(alone, 2))) == expected[8:]


def test_resuming_reads_nothing_that_went_before() -> None:
    class Unread(list[Example]):
        reads = 0

        def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # Only single rows are asked for.
            Unread.reads += 1
            return super().__getitem__(index)

    batches = Batches(Unread(rows(100)), 2, shuffle=True, seed=0, pad_id=0)
    batches.load_state_dict({"row": 2_000_000_050, "n_rows": 100, "shuffle": True, "seed": 0})
    next(batches)
    assert Unread.reads == 2


def test_orders_differ_between_epochs_and_between_seeds() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        batches = Batches(rows(20), 20, shuffle=True, seed=seed, pad_id=0)
        return numbers(batches, number + 1)[number]

    orders = [tuple(epoch(seed, number)) for seed in range(3) for number in range(3)]
    assert len(set(orders)) == 9


@pytest.mark.parametrize(
    ("name", "value"), [("n_rows", 4), ("seed", 8), ("shuffle", False)], ids=["rows", "seed", "shuffle"]
)
def test_a_state_of_other_data_is_refused(name: str, value: int) -> None:
    batches = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    with pytest.raises(ValueError, match=f"{name} was {value}"):
        batches.load_state_dict({**batches.state_dict(), name: value})


def test_what_is_no_state_of_batches_is_refused() -> None:
    batches = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    with pytest.raises(ValueError, match="expected the state of batches"):
        batches.load_state_dict({"position": 3})


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="dataset is empty"):
        Batches([], 2, shuffle=True, seed=0, pad_id=0)
    with pytest.raises(ValueError, match="batch_size: expected an int above 0, got 0"):
        Batches(rows(2), 0, shuffle=True, seed=0, pad_id=0)
    with pytest.raises(ValueError, match="rank: expected a number from 0 to 1, got 2"):
        Batches(rows(2), 1, shuffle=True, seed=0, pad_id=0, rank=2, size=2)
