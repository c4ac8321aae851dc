"""The batch order is compared with brute force on small datasets and a few ranks."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from torchtune.data import IGNORE_INDEX, Batch, Batches, Encoded, Example, SkippedRow, Span


def rows(n: int) -> list[Example]:
    """Build examples whose first token is their index."""
    return [Example([i, i], [i, i]) for i in range(n)]


def indices(batches: Batches[Example], calls: int) -> list[list[int]]:
    """Draw batches and return their row indices."""
    return [next(batches).tokens[:, 0].tolist() for _ in range(calls)]


def row_indices(batch: Batch) -> list[int]:
    """Return the row indices of a batch, which are empty for a filler."""
    return [] if batch.is_filler else batch.tokens[:, 0].tolist()


def steps(
    n: int, batch_size: int, size: int, n_micro_batches: int, epochs: int, *, shuffle: bool = True
) -> list[list[int]]:
    """Return the row indices of each optimizer step, drawn on all ranks, for a number of epochs."""
    ranks = [
        Batches(rows(n), batch_size, shuffle=shuffle, seed=3, pad_id=0, rank=rank, size=size)
        for rank in range(size)
    ]
    rows_by_step = []
    while ranks[0].epoch < epochs:
        parts = [rank.next_step(n_micro_batches) for rank in ranks]
        assert len({len(part) for part in parts}) == 1, "all ranks get the same number of micro-batches"
        for micro_batch in zip(*parts, strict=True):
            lengths = [len(row_indices(batch)) for batch in micro_batch]
            assert max(lengths) <= batch_size
            assert max(lengths) - min(lengths) <= 1
        rows_by_step.append(
            [
                i
                for rank_batches in zip(*parts, strict=True)
                for batch in rank_batches
                for i in row_indices(batch)
            ]
        )
    assert {rank.epoch for rank in ranks} == {epochs}
    return rows_by_step


SHAPES = list(itertools.product([1, 2, 3, 8, 30], [1, 2, 3], [1, 2, 4], [1, 4]))


@pytest.mark.quick_cases(56)
@pytest.mark.parametrize(("n", "batch_size", "size", "n_micro_batches"), SHAPES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_contains_every_row_once(
    n: int, batch_size: int, size: int, n_micro_batches: int, shuffle: bool
) -> None:
    by_step = steps(n, batch_size, size, n_micro_batches, 3, shuffle=shuffle)
    per_step = batch_size * size * n_micro_batches
    one_by_one = [i for (i,) in steps(n, 1, 1, 1, 3, shuffle=shuffle)]
    expected = []
    for epoch in range(3):
        order = one_by_one[epoch * n : (epoch + 1) * n]
        assert sorted(order) == list(range(n))
        expected += [order[first : first + per_step] for first in range(0, n, per_step)]
    assert by_step == expected
    batches = Batches(rows(n), batch_size, shuffle=shuffle, seed=3, pad_id=0, size=size)
    assert batches.steps_in(3, n_micro_batches) == len(expected)


def test_the_number_of_ranks_or_micro_batches_does_not_change_the_rows_of_a_step() -> None:
    four_ranks = steps(21, 2, 4, 1, 2)
    assert four_ranks == steps(21, 2, 2, 2, 2) == steps(21, 2, 1, 4, 2) == steps(21, 1, 2, 4, 2)


def test_the_last_step_of_an_epoch_has_the_remaining_rows() -> None:
    batches = Batches(rows(5), 2, shuffle=False, seed=0, pad_id=0)
    assert indices(batches, 5) == [[0, 1], [2, 3], [4], [0, 1], [2, 3]]
    assert batches.epoch == 1
    assert not batches.is_between_epochs
    assert indices(batches, 1) == [[4]]
    assert batches.epoch == 2
    assert batches.is_between_epochs


def test_an_epoch_ends_even_if_its_last_rows_are_skipped() -> None:
    data: list[Encoded[Example]] = [*rows(3), *(SkippedRow("are empty", f"line {i}") for i in range(20))]
    batches = Batches(data, 2, shuffle=False, seed=0, pad_id=0, window=2)
    assert indices(batches, 2) == [[0, 1], [2]]
    assert batches.epoch == 1
    assert batches.steps_in(2) == 4


@pytest.mark.parametrize("stop", range(8))
def test_a_resumed_stream_matches_an_uninterrupted_stream(stop: int) -> None:
    uninterrupted = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    expected = indices(uninterrupted, 12)
    first = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    before = indices(first, stop)
    second = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    second.load_state_dict(first.state_dict())
    assert before + indices(second, 12 - stop) == expected


def test_a_stream_resumes_on_a_different_number_of_ranks() -> None:
    expected = steps(9, 2, 2, 1, 2)
    first = Batches(rows(9), 2, shuffle=True, seed=3, pad_id=0, size=2)
    indices(first, 2)
    single_rank = Batches(rows(9), 2, shuffle=True, seed=3, pad_id=0)
    single_rank.load_state_dict(first.state_dict())
    assert [
        [i for batch in single_rank.next_step(2) for i in row_indices(batch)] for _ in range(4)
    ] == expected[2:]


def test_resuming_does_not_read_earlier_windows() -> None:
    class CountingList(list[Example]):
        reads = 0

        def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # only single rows are read
            CountingList.reads += 1
            return super().__getitem__(index)

    batches = Batches(CountingList(rows(100)), 2, shuffle=True, seed=0, pad_id=0, window=16)
    per_epoch = -(-100 // 16)
    batches.load_state_dict({**batches.state_dict(), "window": 2_000_000 * per_epoch + 3, "row": 4})
    next(batches)
    assert CountingList.reads == 16
    assert batches.epoch == 2_000_000


def documents(n: int, longest: int = 30) -> list[Example]:
    """Build examples of various lengths; every token of an example is its index."""
    lengths = [2 + (i * 7919) % (longest - 1) for i in range(n)]
    return [Example([i] * length, [i] * length) for i, length in enumerate(lengths)]


def packed(n: int, length: int, epochs: int, **settings: Any) -> Iterator[Batch]:
    """Draw the packed batches of a number of epochs."""
    batches = Batches(
        documents(n), 2, seed=3, pad_id=0, packed_length=length, **{"shuffle": True, **settings}
    )
    while batches.epoch < epochs:
        yield next(batches)


def contents(batches: Iterable[Batch]) -> list[tuple[int, int]]:
    """Return the index and the number of positions of every document in the batches."""
    result = []
    for batch in batches:
        rows, width = batch.tokens.shape
        for row, start, end, *_ in batch.spans or [Span(row, 0, width) for row in range(rows)]:
            tokens, labels = batch.tokens[row, start:end], batch.labels[row, start:end]
            is_target = labels != IGNORE_INDEX
            assert (tokens[is_target] == labels[is_target]).all(), "documents are not mixed"
            if is_target.any():
                assert is_target.nonzero().diff(dim=0).eq(1).all(), "padding is on the right"
                result.append((int(tokens[0]), int(is_target.sum())))
    return result


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize("n", [1, 7, 300, 900])
@pytest.mark.parametrize("fit", ["best", "first"])
@pytest.mark.parametrize("window", [16, 1024])
def test_packed_epochs_contain_every_document_once(n: int, fit: str, window: int) -> None:
    actual = contents(packed(n, 64, 2, fit=fit, window=window))
    expected = Counter((i, len(e.tokens) - 1) for i, e in enumerate(documents(n)))
    assert Counter(actual[:n]) == Counter(actual[n:]) == expected


@pytest.mark.quick_cases(7)
@pytest.mark.parametrize("n", [3, 40, 1000])
@pytest.mark.parametrize(("size", "n_micro_batches"), list(itertools.product([1, 2, 4], [1, 4])))
def test_all_ranks_together_read_every_document_once_per_packed_epoch(
    n: int, size: int, n_micro_batches: int
) -> None:
    ranks = [
        Batches(
            documents(n), 2, shuffle=True, seed=3, pad_id=0, rank=rank, size=size, packed_length=64, window=64
        )
        for rank in range(size)
    ]
    expected = Counter((i, len(e.tokens) - 1) for i, e in enumerate(documents(n)))
    for epoch in range(2):
        actual: Counter[tuple[int, int]] = Counter()
        while ranks[0].epoch == epoch:
            for parts in zip(*(rank.next_step(n_micro_batches) for rank in ranks), strict=True):
                actual.update(contents(batch for batch in parts if not batch.is_filler))
        assert actual == expected
        assert all(rank.epoch == epoch + 1 and rank.is_between_epochs for rank in ranks)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_packs_are_the_same_for_any_number_of_ranks(size: int) -> None:
    settings = {"shuffle": True, "seed": 3, "pad_id": 0, "packed_length": 64, "window": 64}
    single_rank = Batches(documents(200), 8, **settings)  # type: ignore[arg-type]  # the values have different types
    ranks = [
        Batches(documents(200), 8 // size, rank=rank, size=size, **settings)  # type: ignore[arg-type]
        for rank in range(size)
    ]
    for _ in range(20):
        expected, parts = next(single_rank), [next(rank) for rank in ranks]
        assert contents([expected]) == contents(parts)
        assert expected.n_targets == sum(part.n_targets for part in parts)


@pytest.mark.quick_cases(6)
@pytest.mark.parametrize("stop", [0, 1, 5, 17, 18, 19, 40])
@pytest.mark.parametrize("settings", [{"packed_length": 64}, {"group_by_length": True}, {}])
def test_every_stream_can_be_resumed_at_any_step(stop: int, settings: dict[str, Any]) -> None:
    def batches() -> Batches[Example]:
        return Batches(documents(100), 3, shuffle=True, seed=5, pad_id=0, window=32, **settings)

    uninterrupted, first, second = batches(), batches(), batches()
    expected = [contents([next(uninterrupted)]) for _ in range(60)]
    assert [contents([next(first)]) for _ in range(stop)] == expected[:stop]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [contents([next(second)]) for _ in range(60 - stop)] == expected[stop:]
    assert second.state_dict() == uninterrupted.state_dict()


@pytest.mark.parametrize(("n", "epochs"), [(1, 1), (40, 3), (512, 2)])
def test_the_number_of_packed_batches_is_exact_for_small_datasets(n: int, epochs: int) -> None:
    batches = Batches(documents(n), 2, shuffle=True, seed=3, pad_id=0, packed_length=64, window=128)
    calls = batches.steps_in(epochs)
    expected = Counter({(i, len(e.tokens) - 1): epochs for i, e in enumerate(documents(n))})
    actual = [contents([next(batches)]) for _ in range(calls)]
    assert expected <= Counter(itertools.chain(*actual))
    assert not expected <= Counter(itertools.chain(*actual[:-1]))


def test_the_number_of_packed_batches_is_estimated_for_large_datasets() -> None:
    batches = Batches(documents(5000), 2, shuffle=True, seed=3, pad_id=0, packed_length=64)
    estimate, calls = batches.steps_in(1), 0
    while batches.epoch < 1:
        next(batches)
        calls += 1
    assert abs(estimate - calls) <= 0.02 * calls
    assert batches.steps_in(1, 4) == -(-estimate // 4)


def test_group_by_length_reduces_padding() -> None:
    def token_fraction(*, group_by_length: bool = False) -> float:
        batches = Batches(documents(1000), 4, shuffle=True, seed=3, pad_id=0, group_by_length=group_by_length)
        epoch = [next(batches) for _ in range(250)]
        assert Counter(contents(epoch)) == Counter(
            (i, len(e.tokens) - 1) for i, e in enumerate(documents(1000))
        )
        return sum(batch.n_tokens for batch in epoch) / sum(batch.tokens.numel() for batch in epoch)

    assert token_fraction(group_by_length=True) > 0.95
    assert token_fraction() < 0.75


def test_documents_longer_than_a_pack_are_truncated_or_skipped(caplog: pytest.LogCaptureFixture) -> None:
    late_target = Example([1] * 20, [IGNORE_INDEX] * 19 + [1])
    long = Example([2] * 20, [2] * 20)
    batches = Batches([late_target, long], 1, shuffle=False, seed=0, pad_id=0, packed_length=8)
    assert contents([next(batches)]) == [(2, 8)]
    assert "1 of 2 rows has no target within 8 tokens and is skipped; first occurrence: row 1" in caplog.text
    assert "1 of 2 rows is truncated to 8 tokens; first occurrence: row 2: 20 tokens" in caplog.text
    unpacked = Batches([long], 1, shuffle=False, seed=0, pad_id=0, longest=5)
    assert next(unpacked).tokens.tolist() == [[2] * 5]
    with pytest.raises(ValueError, match=r"no row has a target \(1 row\): 1 of 1 row has no target"):
        next(Batches([late_target], 1, shuffle=False, seed=0, pad_id=0, packed_length=8))


def test_rows_may_yield_multiple_examples_or_be_skipped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data: list[Encoded[Example]] = [
        [Example([1, 1], [1, 1]), Example([2, 2], [2, 2])],
        SkippedRow("are empty", "line 2"),
        Example([3, 3], [3, 3]),
    ]
    batches = Batches(data, 1, shuffle=False, seed=0, pad_id=0)
    assert batches.steps_in(2) == 6
    assert indices(batches, 7) == [[1], [2], [3], [1], [2], [3], [1]]
    assert "epoch 1: 1 of 3 rows is empty and is skipped; first occurrence: line 2" in caplog.text


def test_a_resumed_stream_continues_the_note_counts(caplog: pytest.LogCaptureFixture) -> None:
    data: list[Encoded[Example]] = [
        SkippedRow("are empty", "line 0"),
        *rows(8)[1:],
        *(SkippedRow("are empty", f"line {i}") for i in range(8, 12)),
    ]
    records: list[dict[str, Any]] = []
    first, second = (
        Batches(data, 2, shuffle=False, seed=0, pad_id=0, window=4, record=records.append) for _ in range(2)
    )
    before = indices(first, 2)
    assert caplog.messages == ["rows are empty and are skipped; first occurrence: line 0"]
    caplog.clear()
    second.load_state_dict(first.state_dict())
    assert before + indices(second, 2) == [[1, 2], [3, 4], [5, 6], [7]]
    assert caplog.messages[0] == "epoch 1: 5 of 12 rows are empty and are skipped; first occurrence: line 0"
    assert records == [
        {"epoch": 1, "rows": 12, "notes": {"are empty and are skipped": {"rows": 5, "first": "line 0"}}}
    ]
    with second:
        pass
    assert [(record["epoch"], record["rows"]) for record in records] == [(1, 12)]


def test_a_dataset_without_targets_is_rejected_before_the_first_step() -> None:
    data: list[Encoded[Example]] = [
        Example([1] * 20, [IGNORE_INDEX] * 19 + [1]),
        SkippedRow("are empty", "line 2"),
    ]
    batches = Batches(data, 1, shuffle=False, seed=0, pad_id=0, longest=8)
    message = r"no row has a target \(2 rows\): .*1 of 2 rows has no target within 8 tokens and is skipped"
    for read in (lambda: batches.steps_in(1), lambda: next(batches)):
        with pytest.raises(ValueError, match=message):
            read()


def test_orders_differ_between_epochs_and_between_seeds() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        batches = Batches(rows(20), 20, shuffle=True, seed=seed, pad_id=0)
        return indices(batches, number + 1)[number]

    orders = [tuple(epoch(seed, number)) for seed in range(3) for number in range(3)]
    assert len(set(orders)) == 9


@pytest.mark.parametrize(
    ("name", "value"), [("n_rows", 4), ("seed", 8), ("shuffle", False)], ids=["rows", "seed", "shuffle"]
)
def test_state_from_a_different_stream_is_rejected(name: str, value: int) -> None:
    batches = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    with pytest.raises(ValueError, match=f"{name} was {value}"):
        batches.load_state_dict({**batches.state_dict(), name: value})


def test_state_with_unexpected_keys_is_rejected() -> None:
    batches = Batches(rows(5), 2, shuffle=True, seed=7, pad_id=0)
    with pytest.raises(ValueError, match="expected a state of Batches"):
        batches.load_state_dict({"position": 3})


def test_arguments_out_of_range_are_rejected() -> None:
    with pytest.raises(ValueError, match="dataset is empty"):
        Batches([], 2, shuffle=True, seed=0, pad_id=0)
    with pytest.raises(ValueError, match="batch_size: expected an int above 0, got 0"):
        Batches(rows(2), 0, shuffle=True, seed=0, pad_id=0)
    with pytest.raises(ValueError, match="rank: expected an int from 0 to 1, got 2"):
        Batches(rows(2), 1, shuffle=True, seed=0, pad_id=0, rank=2, size=2)
