"""Padding to fixed widths is compared with the batches without it, and widths with brute force."""

import itertools
import random
from collections import Counter
from typing import Any

import pytest
import torch
from attrs import evolve

from tests.data.test_batch import PAD, ROWS, packed_rows
from torchtune.data import IGNORE_INDEX, Batch, Batches, Example, FixedWidths, collate
from torchtune.modules import Documents

SETTINGS: dict[str, Any] = {"shuffle": True, "seed": 3, "pad_id": PAD, "window": 32}
KINDS = [
    pytest.param({}, id="padded"),
    pytest.param({"group_by_length": True}, id="grouped"),
    pytest.param({"packed_length": 300}, id="packed"),
]


def documents(n: int, longest: int) -> list[Example]:
    """Build random examples of 2 to `longest` positions, short ones being more frequent."""
    draw = random.Random(0)
    rows = []
    for _ in range(n):
        tokens = [draw.randrange(PAD) for _ in range(3 + int((longest - 2) * draw.random() ** 3))]
        rows.append(Example(tokens, [IGNORE_INDEX] * 2 + tokens[2:]))
    return rows


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (8192, [128, 256, 512, 1024, 2048, 4096, 8192]),
        (5000, [128, 256, 512, 1024, 2048, 4096, 5000]),
        (None, [128, 256, 512, 1024, 2048, 4096, 8192]),
    ],
)
def test_few_widths_occur_for_rows_of_3_to_5000_tokens(longest: int | None, expected: list[int]) -> None:
    widths = FixedWidths(longest=longest)
    for length in range(2, 5000):
        assert widths.padded_width(length) == min(width for width in expected if width >= length)


def test_rows_are_no_wider_than_a_sequence_of_the_model_unless_they_contain_several() -> None:
    assert FixedWidths(longest=100).padded_width(99) == FixedWidths(longest=100).padded_width(100) == 100
    assert FixedWidths(longest=100).padded_width(101) == 128
    assert FixedWidths(longest=100).padded_width(200) == 256


def test_few_widths_occur_in_a_stream() -> None:
    def widths(rows: list[Example], **settings: Any) -> Counter[int]:
        batches = Batches(rows, 2, **settings, **SETTINGS)
        return Counter(next(batches).tokens.shape[1] for _ in range(200))

    rows = documents(300, 5000)
    assert len(widths(rows, longest=5000)) > 100
    assert widths(rows, longest=5000, fixed_widths=True).keys() == {128, 256, 512, 1024, 2048, 4096, 5000}
    assert len(widths(rows, packed_length=2048)) > 10
    assert widths(rows, packed_length=2048, fixed_widths=True).keys() == {2048}


def check_padding(batch: Batch, padded: Batch, width: int) -> None:
    """Assert that a padded batch has the same contents, and that its positions are consistent."""
    b, s = batch.tokens.shape
    assert padded.tokens.shape == padded.labels.shape == (b, width)
    assert padded.tokens[:, :s].equal(batch.tokens)
    assert padded.labels[:, :s].equal(batch.labels)
    assert set(padded.tokens[:, s:].flatten().tolist()) <= {PAD}
    assert set(padded.labels[:, s:].flatten().tolist()) <= {IGNORE_INDEX}
    positions = [i for i, label in enumerate(padded.labels.flatten().tolist()) if label != IGNORE_INDEX]
    assert padded.target_positions.tolist() == positions
    assert padded.target_sequences.equal(batch.target_sequences)
    assert padded.n_padding == batch.n_padding + b * (width - s)
    assert (padded.counts, padded.lengths, padded.rows) == (batch.counts, batch.lengths, batch.rows)


@pytest.mark.parametrize("extra", [0, 1, 7, 100])
@pytest.mark.parametrize("seed", range(10))
def test_padding_adds_columns_in_which_documents_attend_to_nothing_else(seed: int, extra: int) -> None:
    rows, batch = packed_rows(seed)
    b, s = batch.tokens.shape
    padded = batch.padded(s + extra, PAD, with_spans=True)
    check_padding(batch, padded, s + extra)
    documents = Documents(padded.spans, padded.span_table)
    assert len(documents.lengths) == b
    assert documents.longest == max(batch.lengths)
    for row, mask, positions in zip(rows, documents.mask(None)[:, 0], documents.positions, strict=True):
        lengths = [example.length for example in row]
        n = sum(lengths)
        owners = torch.arange(len(row)).repeat_interleave(torch.tensor(lengths))
        assert mask[:n, :n].equal((owners[:, None] == owners).tril())
        assert not mask[:n, n:].any()
        assert not mask[n:, :n].any()
        assert positions[:n].tolist() == [i for length in lengths for i in range(length)]
    assert padded.span_table is not None
    assert padded.span_table.tolist() == [list(span) for span in padded.spans]


def test_a_batch_without_spans_is_padded_without_spans() -> None:
    batch = evolve(collate(ROWS, PAD), rows=(4, 5, 6))
    padded = batch.padded(9, PAD)
    check_padding(batch, padded, 9)
    assert (padded.spans, padded.span_table) == ((), None)
    assert batch.padded(3, PAD) is batch
    filler = padded.as_filler()
    assert (filler.n_tokens, filler.n_padding) == (0, 27)


def test_batches_are_never_cropped() -> None:
    with pytest.raises(ValueError, match="cannot pad batch rows of 3 positions to 2"):
        collate(ROWS, PAD).padded(2, PAD)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("size", [1, 2])
def test_a_stream_with_fixed_widths_has_the_same_rows_padded(settings: dict[str, Any], size: int) -> None:
    """An odd number of rows leaves a filler for the second of two ranks."""

    def stream(rank: int, **changes: Any) -> Batches[Example]:
        return Batches(
            documents(81, 200), 3, rank=rank, size=size, longest=200, **settings, **changes, **SETTINGS
        )

    for rank in range(size):
        plain, fixed = stream(rank), stream(rank, fixed_widths=True)
        for batch, padded in itertools.islice(zip(plain, fixed, strict=False), 40):
            width = settings.get("packed_length", padded.tokens.shape[1])
            assert width in {128, 200, 300}
            check_padding(batch, padded, width)
            assert padded.is_filler == batch.is_filler
            assert bool(padded.spans) == ("packed_length" in settings)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("settings", KINDS)
def test_a_stream_with_fixed_widths_can_be_resumed(settings: dict[str, Any], workers: int) -> None:
    def stream(n_workers: int = 0, **changes: Any) -> Batches[Example]:
        return Batches(
            documents(60, 200), 3, longest=200, workers=n_workers, **settings, **changes, **SETTINGS
        )

    uninterrupted, first = stream(fixed_widths=True), stream()
    expected = [next(uninterrupted) for _ in range(30)]
    for _ in range(11):  # on a CPU; the run continues on a GPU
        next(first)
    with stream(workers, fixed_widths=True) as second:
        second.load_state_dict(first.state_dict())
        for batch in expected[11:]:
            resumed = next(second)
            assert resumed.tokens.equal(batch.tokens)
            assert (resumed.spans, resumed.rows) == (batch.spans, batch.rows)
        assert second.state_dict() == uninterrupted.state_dict()


@pytest.mark.parametrize("settings", KINDS)
def test_the_estimated_padding_includes_the_fixed_widths(settings: dict[str, Any]) -> None:
    rows = documents(60, 200)
    batches = Batches(rows, 3, longest=200, fixed_widths=True, **settings, **{**SETTINGS, "shuffle": False})
    estimate = batches.padding_fraction()
    epoch = [next(batches) for _ in range(batches.steps_in(1))]
    actual = sum(b.n_padding for b in epoch) / sum(b.tokens.numel() for b in epoch)
    assert abs(estimate - actual) < 0.05, "the sample is grouped differently"
