"""Items of a custom type (completions with advantages) are batched, packed, sharded, resumed and cached."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from attrs import define, evolve, frozen

from tests.datasets.test_token_cache import CountingTokenizer
from torchtune.data import (
    IGNORE_INDEX,
    Batch,
    Batches,
    Example,
    Item,
    Side,
    collate,
    join_sequences,
    plain_example,
)
from torchtune.datasets._row_dataset import RowDataset

SETTINGS: dict[str, Any] = {"shuffle": True, "seed": 3, "pad_id": 0}


@frozen
class Completion(Item):
    """A sampled answer with its advantage and a weight for each target."""

    example: Example
    advantage: float
    weights: list[float]

    @property
    def sequences(self) -> tuple[Example, ...]:
        return (self.example,)

    @property
    def counts(self) -> Mapping[str, int]:
        return {"completions": 1, "targets": self.example.n_targets}

    @property
    def extras(self) -> dict[str, Any]:
        return {"advantage": self.advantage, "weights": self.weights}

    def truncated(self, length: int, side: Side) -> Self | None:
        short = self.example.truncated(length, side)
        if short is None:
            return None
        weights = self.weights[-short.n_targets :] if side == "left" else self.weights[: short.n_targets]
        return evolve(self, example=short, weights=weights)

    @classmethod
    def collate(cls, rows: Sequence[Sequence[Self]], pad_id: int, *, share_prefixes: bool) -> Batch:
        batch = join_sequences([[item.example for item in row] for row in rows], pad_id)
        items = list(itertools.chain(*rows))
        values = {
            "advantages": torch.tensor([item.advantage for item in items]),
            "weights": torch.tensor([weight for item in items for weight in item.weights]),
        }
        return evolve(batch, counts={"completions": len(items), **batch.counts}, values=values)


def completions(n: int) -> list[Completion]:
    """Build completions of various lengths; each advantage is the index, and each weight is the target's id."""
    rows = []
    for i in range(n):
        tokens = [(i * 7 + j) % 40 for j in range(3 + i * 5 % 11)]
        labels = [IGNORE_INDEX] * 2 + tokens[2:]
        rows.append(Completion(Example(tokens, labels), float(i), [float(t) for t in tokens[2:]]))
    return rows


def check_values(batch: Batch) -> None:
    """Assert that the batch's values and counts match its tokens."""
    targets = batch.labels.flatten()[batch.target_positions]
    assert batch.values["weights"].tolist() == targets.tolist()
    assert batch.values["advantages"].tolist() == list(batch.rows)
    assert batch.counts == {"completions": len(batch.rows), "targets": len(targets)}


@pytest.mark.parametrize(
    "settings",
    [
        {"packed_length": 24},
        {"longest": 5},
        {"group_by_length": True},
        {"packed_length": 24, "fixed_widths": True},
        {"group_by_length": True, "fixed_widths": True},
    ],
)
@pytest.mark.parametrize("stop", [0, 3, 11])
def test_custom_items_are_packed_sharded_and_resumed(settings: dict[str, Any], stop: int) -> None:
    def batches(rank: int = 0, size: int = 1) -> Batches[Completion]:
        rows = completions(40)
        return Batches(rows, 4 // size, rank=rank, size=size, window=16, **settings, **SETTINGS)

    single_rank, first, ranks = batches(), batches(), [batches(rank, 2) for rank in range(2)]
    expected = [next(single_rank) for _ in range(20)]
    for batch in expected[:stop]:
        parts = [next(rank) for rank in ranks]
        assert batch.rows == tuple(itertools.chain(*(part.rows for part in parts)))
        next(first)
    second = batches()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for batch in expected[stop:]:
        resumed = next(second)
        check_values(resumed)
        assert resumed.tokens.equal(batch.tokens)
        assert resumed.values["advantages"].equal(batch.values["advantages"])


def test_values_of_custom_items_are_moved_with_the_batch() -> None:
    batch = collate([completions(2), completions(1)], 0)
    moved = batch.to("cpu", as_one=True)
    assert moved.values.keys() == batch.values.keys()
    assert all(moved.values[name].equal(value) for name, value in batch.values.items())


@define(eq=False, repr=False, slots=False)
class CompletionDataset(RowDataset[tuple[str, str, float], Completion]):
    """A dataset whose rows have a prompt, an answer and an advantage."""

    item_type: ClassVar[type[Item]] = Completion

    def _parse(self, row: Any) -> tuple[str, str, float]:
        return row["prompt"], row["answer"], row["advantage"]

    def _encode(self, parsed: tuple[str, str, float], /) -> Any:
        prompt, answer, advantage = parsed
        example = plain_example(self.tokenizer, prompt, answer, train_on_input=False)
        return self._truncate(Completion(example, advantage, [0.5] * example.n_targets))


def test_a_dataset_truncates_and_caches_custom_items(tmp_path: Path) -> None:
    rows = [{"prompt": "ab", "answer": "c" * n, "advantage": n / 2, "id": n} for n in range(1, 30)]
    plain = CompletionDataset(CountingTokenizer(), rows, max_seq_len=20)
    expected = [plain[i] for i in range(len(plain))]
    for _ in range(2):
        cached = CompletionDataset(CountingTokenizer(), rows, max_seq_len=20)
        cached.use_cache(str(tmp_path))
        calls_before = CountingTokenizer.calls
        items = [cached[i] for i in range(len(cached))]
        assert items == expected
        assert cached._cache is not None
        cached._cache.flush()
    assert CountingTokenizer.calls == calls_before, "cached rows are not encoded again"
    last = items[-1]
    assert isinstance(last, Completion)
    assert len(last.example.tokens) == 20
    assert len(last.weights) == last.example.n_targets
    assert [note.text for note in last.notes] == [
        "are truncated to max_seq_len=20 tokens",
        "have an unused column: 'id'",
    ]
