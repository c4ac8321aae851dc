"""Batches of pairs are compared with batches of separate sequences, for every attention kernel."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.data.pairs import pair_of, pairs
from tests.modules.kernels import uncompiled_flex, use_kernel
from tests.modules.reference import TINY
from tests.tolerance import FLOAT64, assert_near, bound, roundings
from torchtune.data import (
    Batch,
    Batches,
    Example,
    LengthLimit,
    Pair,
    SkipReason,
    collate,
    pack,
    split_off,
    truncate,
)
from torchtune.modules import Decoder, Documents
from torchtune.modules._attention_kernels import Kernel

SETTINGS: dict[str, Any] = {"shuffle": True, "seed": 3, "pad_id": 0}


def test_a_batch_row_contains_the_prompt_once_followed_by_both_answers() -> None:
    first, second = pair_of([5, 6, 7], [8, 9], [10]), pair_of([4], [8, 9, 3], [9])
    assert (first.length, second.length) == (4 + 3 - 2, 3 + 1)
    assert first.counts == {"pairs": 1, "targets": 3}
    batch = collate([[first, second], [second]], pad_id=0)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 7, 4, 8, 9, 4], [4, 8, 9, 4, 0, 0, 0, 0, 0]]
    spans = [(0, 0, 4, 0, 0), (0, 4, 5, 0, 2), (0, 5, 8, 0, 0), (0, 8, 9, 0, 0)]
    spans += [(1, 0, 3, 0, 0), (1, 3, 4, 0, 0), (1, 4, 7, 0, 0), (1, 7, 9, 0, 0)]
    assert list(batch.spans) == spans
    assert batch.labels.flatten()[batch.target_positions].tolist() == [8, 9, 10, 8, 9, 3, 9, 8, 9, 3, 9]
    assert batch.target_sequences.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5]
    assert batch.counts == {"pairs": 3, "targets": 11}
    assert (batch.lengths, batch.n_shared, batch.n_padding) == ((4, 3, 3, 1, 3, 1), 2, 5)


@pytest.fixture(params=["per_document", "scores", "flex"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Select the attention kernel for packs; `flex_attention` runs uncompiled."""
    name: Kernel = request.param
    use_kernel(monkeypatch, name)
    with uncompiled_flex():
        yield name


def packed_batch(rows: list[Pair]) -> Batch:
    groups = pack([pair.length for pair in rows], 60)
    return collate([[rows[i] for i in group] for group in groups], pad_id=0)


def log_probs(model: Decoder, batch: Batch) -> Tensor:
    """Compute the log-probability of each sequence's targets, [number of sequences]."""
    documents = Documents(batch.spans, batch.span_table) if batch.spans else None
    logits = model(batch.tokens, documents=documents).flatten(0, 1)[batch.target_positions]
    targets = batch.labels.flatten()[batch.target_positions]
    return batch.sum_by_sequence(-nn.functional.cross_entropy(logits, targets, reduction="none"))


def gradients(model: Decoder, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(value)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.quick_cases(3)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.usefixtures("kernel")
def test_packed_pairs_match_separate_answers(
    window: int | None, softcap: float | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    architecture = TINY.evolve(max_seq_len=40, window=window, attention_softcap=softcap)
    model, exact = Decoder(architecture).to(dtype), Decoder(architecture).double()
    exact.load_state_dict(model.state_dict())
    rows = pairs(12, architecture.vocab_size)
    batch = packed_batch(rows)
    assert batch.n_shared > 0
    assert len(batch.lengths) > 2 * len(batch.tokens), "rows contain multiple pairs"
    order = [rows[i] for group in pack([pair.length for pair in rows], 60) for i in group]
    sequences = [sequence for pair in order for sequence in pair.sequences]
    separate = torch.cat([log_probs(exact, collate([sequence], 0)) for sequence in sequences])
    # This loss depends on both answers of a pair, as in preference tuning.
    weights = torch.linspace(-1, 1, len(sequences), dtype=torch.float64)
    packed = log_probs(model, batch)
    tolerance = FLOAT64 if dtype == torch.float64 else bound(dtype, 3 * roundings(architecture, 30))
    assert_near(packed, separate, tolerance)
    packed_gradients = gradients(model, (packed * weights.to(dtype)).sum())
    separate_gradients = gradients(exact, (separate * weights).sum())
    assert_near(packed_gradients, separate_gradients, tolerance)


@pytest.mark.parametrize("packed_length", [None, 40])
@pytest.mark.parametrize("size", [1, 2])
def test_every_epoch_contains_each_complete_pair_once(packed_length: int | None, size: int) -> None:
    rows = pairs(60)
    ranks = [
        Batches(rows, 2, rank=rank, size=size, packed_length=packed_length, window=16, **SETTINGS)
        for rank in range(size)
    ]
    row_counts: Counter[int] = Counter()
    while not all(batches.epoch for batches in ranks):
        for batch in map(next, ranks):
            if batch.is_filler:
                continue
            assert batch.counts["pairs"] == len(batch.rows) == len(batch.lengths) // 2
            assert packed_length is None or batch.tokens.shape[1] <= packed_length
            sequences = [rows[row].sequences for row in batch.rows]
            assert [e.length for pair_sequences in sequences for e in pair_sequences] == list(batch.lengths)
            row_counts.update(batch.rows)
    assert row_counts == Counter(range(60))


def test_two_ranks_read_the_same_pairs_as_one_rank() -> None:
    def batches(batch_size: int, rank: int, size: int) -> Batches[Pair]:
        return Batches(pairs(50), batch_size, rank=rank, size=size, packed_length=40, window=16, **SETTINGS)

    single, ranks = batches(4, 0, 1), [batches(2, rank, 2) for rank in range(2)]
    for _ in range(12):
        parts = [next(rank) for rank in ranks]
        assert next(single).rows == tuple(itertools.chain(*(part.rows for part in parts)))


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
@pytest.mark.parametrize("packed_length", [None, 40])
def test_batches_of_pairs_can_be_resumed_at_any_step(stop: int, packed_length: int | None) -> None:
    def batches() -> Batches[Pair]:
        return Batches(pairs(30), 2, packed_length=packed_length, window=8, **SETTINGS)

    uninterrupted, first, second = batches(), batches(), batches()
    expected = [next(uninterrupted) for _ in range(20)]
    for _ in range(stop):
        next(first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for batch in expected[stop:]:
        resumed = next(second)
        assert resumed.tokens.equal(batch.tokens)
        assert (resumed.spans, resumed.rows) == (batch.spans, batch.rows)
    assert second.state_dict() == uninterrupted.state_dict()


def test_held_out_rows_are_complete_pairs() -> None:
    trained, held_out = split_off(pairs(10), 0.2, seed=0)
    assert (len(trained), len(held_out)) == (8, 2)
    assert isinstance(held_out[0], Pair)


def token_counts(pair: Pair) -> list[int]:
    return [len(sequence.tokens) for sequence in pair.sequences]


def test_pairs_are_truncated_to_the_limits_of_the_model_and_the_pack() -> None:
    # The sequences have 18 and 14 positions, of which 9 are shared.
    pair = pair_of([1] * 10, [2] * 9, [3] * 5)
    assert truncate(pair, LengthLimit(sequence=18, item=23)) is pair
    by_sequence = truncate(pair, LengthLimit(sequence=12))
    assert isinstance(by_sequence, Pair)
    assert token_counts(by_sequence) == [13, 13]
    assert [(note.text, note.example) for note in by_sequence.notes] == [
        ("are truncated to 12 tokens", "23 tokens in 2 sequences")
    ]
    for room in range(11, 23):
        short = truncate(pair, LengthLimit(sequence=18, item=room))
        assert isinstance(short, Pair)
        assert short.length <= room
        assert room - short.length < 2, "longer answers would not fit"
    for limit in (LengthLimit(item=10), LengthLimit(sequence=9)):
        assert truncate(pair, limit) == SkipReason(f"have no target within {limit.shortest} tokens")


def test_truncation_on_the_left_keeps_a_common_prompt() -> None:
    pair = pair_of([*range(10)], [20] * 6, [30] * 3)
    short = truncate(pair, LengthLimit(sequence=11, side="left"))
    assert isinstance(short, Pair)
    assert short.chosen.tokens == [*range(4, 10), *[20] * 6]
    assert short.rejected.tokens == [*range(4, 10), *[30] * 3]
    assert short.n_shared == 5


@pytest.mark.parametrize(
    ("pair", "length"),
    [
        (Pair(Example([1, 2, 3], [-100, 2, 3]), Example([1, 4, 5, 6, 7], [-100] * 4 + [7])), 2),
        (pair_of([1], [2, 3, 4], [2, 3, 5]), 2),
    ],
    ids=["one answer has no target left", "both answers are equal"],
)
def test_pairs_that_lose_an_answer_are_skipped(
    pair: Pair, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    other = pair_of([1], [2], [3])
    batches = Batches([pair, other], 1, shuffle=False, seed=0, pad_id=0, longest=length)
    assert next(batches).rows == (1,)
    assert (
        f"1 of 2 rows has no target within {length} tokens and is skipped; first occurrence: row 1"
        in caplog.text
    )


def test_examples_and_pairs_cannot_be_mixed() -> None:
    mixed: list[Example | Pair] = [pair_of([1], [2], [3]), Example([1, 2], [1, 2])]
    message = "the dataset yields items of different types, Pair and Example"
    batches: Batches[Any] = Batches(mixed, 1, shuffle=False, seed=0, pad_id=0)
    with pytest.raises(ValueError, match=message):
        next(batches)
    with pytest.raises(ValueError, match=message):
        batches.steps_in(1)
    with pytest.raises(ValueError, match=message):
        collate([mixed], 0)
