"""Packs are compared with brute-force packing, and row orders are checked to be permutations."""

import random

import pytest
import torch

from torchtune.data import IGNORE_INDEX, Example, collate, pack
from torchtune.data._order import Order
from torchtune.modules import Documents


@pytest.mark.parametrize("fit", ["best", "first"])
@pytest.mark.parametrize("n", [0, 1, 2, 50, 1000])
def test_packs_contain_every_document_once_and_fit_the_capacity(fit: str, n: int) -> None:
    rng = random.Random(n)
    lengths = [rng.randint(1, 100) for _ in range(n)]
    rows = pack(lengths, 100, fit)  # type: ignore[arg-type]  # "best" or "first"
    assert sorted(i for row in rows for i in row) == list(range(n))
    assert all(sum(lengths[i] for i in row) <= 100 for row in rows)
    assert rows == sorted(rows)
    assert all(row == sorted(row) for row in rows)


def brute_force_first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for i, length in enumerate(lengths):
        for row in rows:
            if sum(lengths[j] for j in row) + length <= capacity:
                row.append(i)
                break
        else:
            rows.append([i])
    return rows


def brute_force_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        used = [sum(lengths[j] for j in row) for row in rows]
        fitting = [r for r in range(len(rows)) if used[r] + lengths[i] <= capacity]
        if fitting:
            rows[max(fitting, key=lambda r: (used[r], -r))].append(i)
        else:
            rows.append([i])
    return sorted(map(sorted, rows))


@pytest.mark.parametrize("seed", range(20))
def test_packs_match_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 30) for _ in range(rng.randint(1, 60))]
    assert pack(lengths, 30, "first") == brute_force_first_fit(lengths, 30)
    assert pack(lengths, 30, "best") == brute_force_best_fit(lengths, 30)


def test_best_fit_wastes_less_than_two_percent() -> None:
    rng = random.Random(0)
    lengths = [min(int(rng.lognormvariate(4.5, 0.8)) + 2, 1024) for _ in range(1024)]
    rows = pack(lengths, 1024)
    assert sum(lengths) / (1024 * len(rows)) > 0.98


def test_a_document_longer_than_a_pack_is_rejected() -> None:
    with pytest.raises(ValueError, match="a document of 9 tokens does not fit in a pack of 8"):
        pack([3, 9], 8)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("n", [1, 2, 3, 100, 65_537, 100_003])
def test_an_order_is_a_permutation(n: int) -> None:
    order = Order(n, 3, 0)
    values = [order[i] for i in range(n)]
    assert sorted(values) == list(range(n))
    if n > 99:
        assert values != list(range(n))
        sample = range(0, n, 1 + n // 1000)
        others = Order(n, 3, 1), Order(n, 4, 0)
        assert all([other[i] for i in sample] != [values[i] for i in sample] for other in others)
    assert [Order(n, None, 0)[i] for i in range(min(n, 9))] == list(range(min(n, 9)))


@pytest.mark.slow
def test_a_large_order_looks_random() -> None:
    n = 200_000
    order = Order(n, 1, 0)
    values = torch.tensor([order[i] for i in range(n)])
    steps = values.diff().abs().double()
    assert abs(steps.mean() / (n / 3) - 1) < 0.01, "consecutive values must differ by n / 3 on average"
    positions = torch.arange(n).double()
    assert abs(torch.corrcoef(torch.stack([positions, values.double()]))[0, 1]) < 0.01
    tenths = torch.histc(values[: n // 10].double(), 10, 0, n)
    assert (tenths / (n / 100) - 1).abs().max() < 0.06, "the first tenth must be drawn from the whole range"


def test_a_pack_is_the_concatenation_of_its_documents() -> None:
    a = Example([1, 2, 3], [IGNORE_INDEX, 2, 3])
    b = Example([4, 5], [4, 5])
    batch = collate([[a, b], [b]], pad_id=9)
    assert batch.tokens.tolist() == [[1, 2, 4], [4, 9, 9]]
    assert batch.labels.tolist() == [[2, 3, 5], [5, IGNORE_INDEX, IGNORE_INDEX]]
    assert [span[:3] for span in batch.spans] == [(0, 0, 2), (0, 2, 3), (1, 0, 1), (1, 1, 2), (1, 2, 3)]
    assert batch.span_table is not None
    assert batch.span_table.tolist() == [list(span) for span in batch.spans]
    assert (batch.n_targets, batch.n_tokens) == (4, 4)
    assert (collate([[a], b], pad_id=9).spans, collate([[a], b], pad_id=9).span_table) == ((), None)
    with pytest.raises(ValueError, match="at least one example in every row"):
        collate([[a], []], pad_id=9)


def with_prefix(*tokens: int, n_targets: int) -> Example:
    """Build an example that starts with the tokens 1 to 16; its last `n_targets` tokens are targets."""
    all_tokens = [*range(1, 17), *tokens]
    n_masked = len(all_tokens) - n_targets
    return Example(all_tokens, [IGNORE_INDEX] * n_masked + all_tokens[n_masked:])


def test_a_common_prefix_is_stored_once_per_pack() -> None:
    a, b, c = (
        with_prefix(40, 41, 42, n_targets=2),
        with_prefix(50, 51, n_targets=1),
        with_prefix(60, 61, 62, 63, n_targets=1),
    )
    batch = collate([[a, b], [c]], pad_id=9, share_prefixes=True)
    assert batch.spans == ((0, 0, 18, 0, 0), (0, 18, 19, 0, 16), (1, 0, 19, 0, 0))
    assert batch.tokens.tolist() == [[*range(1, 17), 40, 41, 50], [*range(1, 17), 60, 61, 62]]
    assert batch.labels[:, 15:].tolist() == [[IGNORE_INDEX, 41, 42, 51], [IGNORE_INDEX] * 3 + [63]]
    assert (batch.n_targets, batch.n_tokens, batch.lengths) == (4, 18 + 17 + 19, (18, 17, 19))
    assert (batch.n_shared, batch.n_padding) == (16, 0)
    plain = collate([[a, b], [c]], pad_id=9)
    assert (plain.n_targets, plain.n_tokens, plain.lengths) == (4, 54, (18, 17, 19))
    assert (plain.n_shared, plain.n_padding) == (0, 16)
    assert not any(span.prefix_length for span in plain.spans)
    assert plain.tokens.shape == (2, 35)


def test_padding_spans_are_no_longer_than_documents_with_a_shared_prefix() -> None:
    a, b = with_prefix(40, 41, 42, n_targets=2), with_prefix(50, 51, n_targets=1)
    long = with_prefix(*range(60, 100), n_targets=1)
    batch = collate([[a, b], [long]], pad_id=9, share_prefixes=True)
    assert Documents([span for span in batch.spans if span.row == 0]).longest == 18


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([with_prefix(40, n_targets=1)], id="a single example"),
        pytest.param([with_prefix(40, 41, n_targets=1), Example([7] * 20, [7] * 20)], id="no common prefix"),
        pytest.param(
            [with_prefix(40, 41, n_targets=1), with_prefix(50, 51, n_targets=3)], id="a target in the prefix"
        ),
        pytest.param(
            [with_prefix(40, 41, n_targets=1), with_prefix(n_targets=1)], id="no tokens after the prefix"
        ),
    ],
)
def test_an_unsuitable_prefix_is_not_shared(row: list[Example]) -> None:
    shared, plain = (collate([row], pad_id=9, share_prefixes=share) for share in (True, False))
    assert shared.spans == plain.spans
    assert torch.equal(shared.tokens, plain.tokens)
    assert torch.equal(shared.labels, plain.labels)
