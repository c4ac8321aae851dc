"""The order of batches is compared with a brute force over small datasets and numbers of ranks."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from torchtune.data import IGNORE_INDEX, Batch, Batches, Encoded, Example, LeftOut, Span


def rows(n: int) -> list[Example]:
    """Make examples whose first token is their number."""
    return [Example([i, i], [i, i]) for i in range(n)]


def numbers(batches: Batches[Example], calls: int) -> list[list[int]]:
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

    batches = Batches(Unread(rows(100)), 2, shuffle=True, seed=0, pad_id=0, window=16)
    per_epoch = -(-100 // 16)
    batches.load_state_dict({**batches.state_dict(), "window": 2_000_000 * per_epoch + 3, "row": 4})
    next(batches)
    assert Unread.reads == 16
    assert batches.epoch == 2_000_000


def documents(n: int, longest: int = 30) -> list[Example]:
    """Make examples of various lengths, all of whose tokens are the example's number."""
    lengths = [2 + (i * 7919) % (longest - 1) for i in range(n)]
    return [Example([i] * length, [i] * length) for i, length in enumerate(lengths)]


def packed(n: int, length: int, epochs: int, **settings: Any) -> Iterator[Batch]:
    """Draw packed batches of some epochs."""
    batches = Batches(
        documents(n), 2, seed=3, pad_id=0, packed_length=length, **{"shuffle": True, **settings}
    )
    while batches.epoch < epochs:
        yield next(batches)


def contents(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    """List every document in batches: its number, and how many positions it has."""
    found = []
    for batch in batches:
        rows, width = batch.tokens.shape
        for row, start, end, *_ in batch.spans or [Span(row, 0, width) for row in range(rows)]:
            tokens, labels = batch.tokens[row, start:end], batch.labels[row, start:end]
            is_target = labels != IGNORE_INDEX
            assert (tokens[is_target] == labels[is_target]).all(), "documents are not mixed"
            if is_target.any():
                assert is_target.nonzero().diff(dim=0).eq(1).all(), "padding is on the right"
                found.append((int(tokens[0]), int(is_target.sum())))
    return found


@pytest.mark.parametrize("n", [1, 7, 300, 900])
@pytest.mark.parametrize("fit", ["best", "first"])
@pytest.mark.parametrize("window", [16, 1024])
def test_packed_epochs_hold_every_document_once(n: int, fit: str, window: int) -> None:
    found = contents(packed(n, 64, 2, fit=fit, window=window))
    once = Counter((i, len(e.tokens) - 1) for i, e in enumerate(documents(n)))
    assert not Counter(once | Counter(found)) - Counter(found), (
        "all of them, and those that fill the last batch"
    )
    first = Counter(found[:n]) if window == 1024 else Counter()
    assert first <= once


@pytest.mark.parametrize("size", [1, 2, 4])
def test_packed_rows_are_the_same_for_any_number_of_ranks(size: int) -> None:
    settings = {"shuffle": True, "seed": 3, "pad_id": 0, "packed_length": 64, "window": 64}
    alone = Batches(documents(200), 8, **settings)  # type: ignore[arg-type]  # of several types
    ranks = [
        Batches(documents(200), 8 // size, rank=rank, size=size, **settings)  # type: ignore[arg-type]
        for rank in range(size)
    ]
    for _ in range(20):
        expected, parts = next(alone), [next(rank) for rank in ranks]
        assert contents([expected]) == contents(parts)
        assert expected.n_targets == sum(part.n_targets for part in parts)


@pytest.mark.parametrize("stop", [0, 1, 5, 17, 18, 19, 40])
@pytest.mark.parametrize("settings", [{"packed_length": 64}, {"group_by_length": True}, {}])
def test_any_stream_is_taken_up_anywhere(stop: int, settings: dict[str, Any]) -> None:
    def batches() -> Batches[Example]:
        return Batches(documents(100), 3, shuffle=True, seed=5, pad_id=0, window=32, **settings)

    unbroken, first, second = batches(), batches(), batches()
    expected = [contents([next(unbroken)]) for _ in range(60)]
    assert [contents([next(first)]) for _ in range(stop)] == expected[:stop]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [contents([next(second)]) for _ in range(60 - stop)] == expected[stop:]
    assert second.state_dict() == unbroken.state_dict()


@pytest.mark.parametrize(("n", "epochs"), [(1, 1), (40, 3), (512, 2)])
def test_packed_batches_are_counted_exactly_where_rows_are_few(n: int, epochs: int) -> None:
    batches = Batches(documents(n), 2, shuffle=True, seed=3, pad_id=0, packed_length=64, window=128)
    calls = batches.batches_in(epochs)
    wanted = Counter({(i, len(e.tokens) - 1): epochs for i, e in enumerate(documents(n))})
    found = [contents([next(batches)]) for _ in range(calls)]
    assert wanted <= Counter(itertools.chain(*found))
    assert not wanted <= Counter(itertools.chain(*found[:-1]))


def test_packed_batches_are_estimated_where_rows_are_many() -> None:
    batches = Batches(documents(5000), 2, shuffle=True, seed=3, pad_id=0, packed_length=64)
    estimate, calls = batches.batches_in(1), 0
    while batches.epoch < 1:
        next(batches)
        calls += 1
    assert abs(estimate - calls) <= 0.02 * calls


def test_rows_of_like_length_stand_together() -> None:
    def share(*, group_by_length: bool = False) -> float:
        batches = Batches(documents(1000), 4, shuffle=True, seed=3, pad_id=0, group_by_length=group_by_length)
        drawn = [next(batches) for _ in range(250)]
        assert Counter(contents(drawn)) == Counter(
            (i, len(e.tokens) - 1) for i, e in enumerate(documents(1000))
        )
        return sum(batch.n_tokens for batch in drawn) / sum(batch.tokens.numel() for batch in drawn)

    assert share(group_by_length=True) > 0.95
    assert share() < 0.75


def test_documents_longer_than_a_row_are_cut_or_left_out(caplog: pytest.LogCaptureFixture) -> None:
    late = Example([1] * 20, [IGNORE_INDEX] * 19 + [1])
    long = Example([2] * 20, [2] * 20)
    batches = Batches([late, long], 1, shuffle=False, seed=0, pad_id=0, packed_length=8)
    assert contents([next(batches)]) == [(2, 8)]
    assert "1 of 2 rows has no target within 8 tokens and is left out; the first: row 1" in caplog.text
    assert "1 of 2 rows is cut at 8 tokens; the first: row 2: 20 tokens" in caplog.text
    alone = Batches([long], 1, shuffle=False, seed=0, pad_id=0, longest=5)
    assert next(alone).tokens.tolist() == [[2] * 5]
    with pytest.raises(ValueError, match="none of 1 rows gives anything to learn: 1 of 1 rows has no target"):
        next(Batches([late], 1, shuffle=False, seed=0, pad_id=0, packed_length=8))


def test_rows_that_give_nothing_or_several_examples_are_taken_as_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data: list[Encoded[Example]] = [
        [Example([1, 1], [1, 1]), Example([2, 2], [2, 2])],
        LeftOut("are empty", "line 2"),
        Example([3, 3], [3, 3]),
    ]
    batches = Batches(data, 1, shuffle=False, seed=0, pad_id=0)
    assert batches.batches_in(2) == 6
    assert numbers(batches, 7) == [[1], [2], [3], [1], [2], [3], [1]]
    assert "epoch 1: 1 of 3 rows is empty and is left out; the first: line 2" in caplog.text


def test_a_resumed_run_counts_on(caplog: pytest.LogCaptureFixture) -> None:
    data: list[Encoded[Example]] = [
        LeftOut("are empty", "line 0"),
        *rows(8)[1:],
        *(LeftOut("are empty", f"line {i}") for i in range(8, 12)),
    ]
    records: list[dict[str, Any]] = []
    first, second = (
        Batches(data, 2, shuffle=False, seed=0, pad_id=0, window=4, record=records.append) for _ in range(2)
    )
    before = numbers(first, 2)
    assert caplog.messages == ["rows are empty and are left out; the first: line 0"]
    caplog.clear()
    second.load_state_dict(first.state_dict())
    assert before + numbers(second, 2) == [[1, 2], [3, 4], [5, 6], [7, 1]]
    assert caplog.messages[0] == "epoch 1: 5 of 12 rows are empty and are left out; the first: line 0"
    assert records == [
        {"epoch": 1, "rows": 12, "notes": {"are empty and are left out": {"rows": 5, "first": "line 0"}}}
    ]
    with second:
        pass
    assert [(record["epoch"], record["rows"]) for record in records] == [(1, 12), (2, 4)]


def test_rows_of_which_none_has_a_target_are_an_error_before_the_first_step() -> None:
    data: list[Encoded[Example]] = [
        Example([1] * 20, [IGNORE_INDEX] * 19 + [1]),
        LeftOut("are empty", "line 2"),
    ]
    batches = Batches(data, 1, shuffle=False, seed=0, pad_id=0, longest=8)
    message = (
        "none of 2 rows gives anything to learn: .*1 of 2 rows has no target within 8 tokens and is left out"
    )
    for look in (lambda: batches.batches_in(1), lambda: next(batches)):
        with pytest.raises(ValueError, match=message):
            look()


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
