"""Preference pairs are batched, packed, split across ranks, cached, resumed and held out as whole pairs."""

import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from tests.datasets.test_token_cache import CountingTokenizer
from torchtune.data import Batch, Batches, Pair, SkippedRow, split_off
from torchtune.datasets import PreferenceDataset

ROWS = [
    {
        "prompt": f"Say {'very ' * (i % 4)}{i}.",
        "chosen": "yes " * (1 + i % 5),
        "rejected": "no " * (1 + i % 3),
    }
    for i in range(40)
]
SETTINGS: dict[str, Any] = {"shuffle": True, "seed": 1, "pad_id": 0, "packed_length": 200, "window": 16}


def batches(dataset: Any = None, batch_size: int = 2, **settings: Any) -> Batches[Pair]:
    dataset = PreferenceDataset(ByteTokenizer(), ROWS) if dataset is None else dataset
    return Batches(dataset, batch_size, **{**SETTINGS, **settings})


def sequences(batch: Batch) -> list[list[int]]:
    """Return the tokens of each sequence that has targets, including its prefix."""
    width = batch.tokens.shape[1]
    result = []
    for row, start, end, prefix_start, n in batch.spans:
        tokens = batch.tokens[row].tolist()
        if any(row * width + start <= p < row * width + end for p in batch.target_positions.tolist()):
            result.append(tokens[prefix_start : prefix_start + n] + tokens[start:end])
    return result


def test_a_batch_contains_both_answers_to_each_prompt() -> None:
    dataset = PreferenceDataset(ByteTokenizer(), ROWS)
    batch = next(batches(dataset))
    assert batch.counts["pairs"] == len(batch.rows) > 2
    expected = []
    for row in batch.rows:
        pair = dataset[row]
        assert isinstance(pair, Pair)
        assert pair.n_shared > 20
        expected += [example.tokens[:-1] for example in pair.sequences]
    assert sequences(batch) == expected


def test_two_ranks_read_the_same_pairs_as_one_rank() -> None:
    single_rank, ranks = batches(), [batches(batch_size=1, rank=rank, size=2) for rank in range(2)]
    for _ in range(10):
        expected, parts = next(single_rank), [next(rank) for rank in ranks]
        assert expected.rows == tuple(itertools.chain(*(part.rows for part in parts)))
        assert expected.counts == {
            name: sum(part.counts[name] for part in parts) for name in ("pairs", "targets")
        }


@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_resumed_batches_match_uninterrupted_batches(stop: int) -> None:
    uninterrupted, first, second = batches(), batches(), batches()
    expected = [next(uninterrupted) for _ in range(12)]
    for _ in range(stop):
        next(first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for batch in expected[stop:]:
        resumed = next(second)
        assert resumed.tokens.equal(batch.tokens)
        assert resumed.labels.equal(batch.labels)
        assert resumed.spans == batch.spans


def test_cached_pairs_produce_the_same_batches(tmp_path: Path) -> None:
    plain = batches(PreferenceDataset(CountingTokenizer(), ROWS))
    expected = [next(plain) for _ in range(8)]
    for is_cached in (False, True):
        dataset = PreferenceDataset(CountingTokenizer(), ROWS)
        dataset.use_cache(str(tmp_path))
        before = CountingTokenizer.calls
        cached = batches(pickle.loads(pickle.dumps(dataset)) if is_cached else dataset)
        for batch in expected:
            cached_batch = next(cached)
            assert cached_batch.tokens.equal(batch.tokens)
            assert cached_batch.counts == batch.counts
        if dataset._cache is not None:
            dataset._cache.flush()
        assert (CountingTokenizer.calls == before) is is_cached


def test_workers_prefetch_the_same_pairs() -> None:
    unprefetched = batches()
    with batches(workers=1) as prefetched:
        for _ in range(8):
            assert next(prefetched).tokens.equal(next(unprefetched).tokens)


def test_held_out_rows_are_pairs() -> None:
    trained, held_out = split_off(PreferenceDataset(ByteTokenizer(), ROWS), 0.25, seed=0)
    assert (len(trained), len(held_out)) == (30, 10)
    assert isinstance(held_out[0], Pair)
    assert set(next(batches(trained)).rows) <= set(range(30))


def test_long_pairs_are_truncated_or_skipped_if_an_answer_would_be_lost() -> None:
    long = {"prompt": "Say.", "chosen": "a" * 30, "rejected": "b" * 5}
    long_prompt = {"prompt": "Say " * 30, "chosen": "a", "rejected": "b"}
    dataset = PreferenceDataset(ByteTokenizer(), [long, long_prompt], max_seq_len=50)
    truncated, skipped = dataset[0], dataset[1]
    assert isinstance(truncated, Pair)
    assert len(truncated.chosen.tokens) == 50 > len(truncated.rejected.tokens)
    assert [note.text for note in truncated.notes] == ["are truncated to max_seq_len=50 tokens"]
    assert skipped == SkippedRow("have no target within 50 tokens", "source: row 2")
