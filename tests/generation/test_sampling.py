"""Sampling is compared with probabilities computed by hand and with transformers' filters."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_near, bound
from torchtune.generation import GREEDY, Sampling
from torchtune.generation._sampling import SamplingOptions, row_generator
from torchtune.modules import Hardware, assume_hardware

LOGITS = torch.tensor(
    [math.log(n) for n in (40.0, 25.0, 20.0, 10.0, 5.0)]
)  # the softmax is 0.4, 0.25, 0.2, 0.1, 0.05

# Settings and the resulting probabilities, computed by hand and not normalized.
PROBABILITIES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "temperature 1": ({"temperature": 1.0}, [40, 25, 20, 10, 5]),
    "temperature 1/2": ({"temperature": 0.5}, [1600, 625, 400, 100, 25]),
    "temperature 2": ({"temperature": 2.0}, [n**0.5 for n in (40, 25, 20, 10, 5)]),
    "top-k": ({"temperature": 1.0, "top_k": 3}, [40, 25, 20, 0, 0]),
    "top-k of all": ({"temperature": 1.0, "top_k": 9}, [40, 25, 20, 10, 5]),
    "top-p": ({"temperature": 1.0, "top_p": 0.7}, [40, 25, 20, 0, 0]),
    "top-p below the most likely token": ({"temperature": 1.0, "top_p": 0.1}, [1, 0, 0, 0, 0]),
    "top-p of 1": ({"temperature": 1.0, "top_p": 1.0}, [40, 25, 20, 10, 5]),
    "min-p": ({"temperature": 1.0, "min_p": 0.24}, [40, 25, 20, 10, 0]),
    "min-p of 1": ({"temperature": 1.0, "min_p": 1.0}, [1, 0, 0, 0, 0]),
    # The first two of 1600, 625, 400 and 100 sum to 0.82 of the total; min-p 0.5 keeps only the first.
    "temperature, top-k, top-p": ({"temperature": 0.5, "top_k": 4, "top_p": 0.8}, [1600, 625, 0, 0, 0]),
    "all": ({"temperature": 0.5, "top_k": 4, "top_p": 0.8, "min_p": 0.5}, [1, 0, 0, 0, 0]),
    # Top-p applies after top-k: 40 / 65 is below 0.65, so both tokens remain.
    # (Without top-k, they would sum to exactly 0.65.)
    "top-k before top-p": ({"temperature": 1.0, "top_k": 2, "top_p": 0.65}, [40, 25, 0, 0, 0]),
    # Min-p applies after the temperature: 400 is a quarter of 1600, but before it, 20 is half of 40.
    "temperature before min-p": ({"temperature": 0.5, "min_p": 0.3}, [1600, 625, 0, 0, 0]),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_draws_follow_the_probabilities_computed_by_hand(name: str) -> None:
    settings, by_hand = PROBABILITIES[name]
    probs = torch.tensor(by_hand, dtype=torch.float64) / sum(by_hand)
    sampling = Sampling(**settings)
    exact = torch.softmax(sampling.scores(LOGITS[None])[0], dim=-1)
    # The relative error of a score is multiplied by the score, at most 7.4, in its exponential; five are summed.
    assert_near(exact, probs, bound(torch.float32, 8 + 5))
    n = 4000
    generator = torch.Generator().manual_seed(7)
    tokens = sampling.choose(LOGITS.expand(n, -1), None, [generator] * n)
    counts = torch.bincount(tokens, minlength=5).double()
    assert counts[probs == 0].sum() == 0, "excluded tokens must never be drawn"
    errors = (probs * (1 - probs) / n).sqrt()
    assert ((counts / n - probs).abs() <= 4 * errors).all(), (counts / n, probs)


def test_a_token_with_probability_zero_is_never_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 1.0, -math.inf]]).repeat(2, 1)
    extreme_draws = iter(
        [torch.tensor(0.0, dtype=torch.float64), torch.tensor(1 - 2**-53, dtype=torch.float64)]
    )
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(extreme_draws))
    chosen = Sampling(temperature=1.0).choose(logits, None, [torch.Generator()] * 2)
    assert chosen.tolist() == [1, 3]


@pytest.fixture
def deterministic_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the settings for a GPU in deterministic mode, in which CUDA's `cumsum` of floats raises an error."""
    on_host: list[Tensor] = []
    cumsum = Tensor.cumsum

    def copy_to_host(tensor: Tensor) -> Tensor:
        on_host.append(tensor.clone())
        return on_host[-1]

    def deterministic_cumsum(tensor: Tensor, dim: int) -> Tensor:
        if not any(tensor is copy for copy in on_host):
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")
        return cumsum(tensor, dim)

    monkeypatch.setattr(Tensor, "cpu", copy_to_host)
    monkeypatch.setattr(Tensor, "cumsum", deterministic_cumsum)
    torch.use_deterministic_algorithms(mode=True)
    try:
        with assume_hardware(Hardware("cuda", (9, 0))):
            yield
    finally:
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 0.5, "top_k": 4, "top_p": 0.8},
    ],
)
def test_sampling_on_a_gpu_in_deterministic_mode_draws_the_same_tokens(
    settings: SamplingOptions, request: pytest.FixtureRequest
) -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))

    def draw() -> list[int]:
        generators = [row_generator(3, row) for row in range(len(logits))]
        return Sampling(**settings).choose(logits, None, generators).tolist()

    expected = draw()
    request.getfixturevalue("deterministic_gpu")
    with pytest.raises(RuntimeError, match="deterministic implementation"):
        logits.cumsum(-1)
    assert draw() == expected


def reference_scores(settings: dict[str, Any], logits: Any, ids: Any) -> Tensor:
    """Apply transformers' logits processors in the same order as its `generate`."""
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as process

    classes = {
        "repetition_penalty": process.RepetitionPenaltyLogitsProcessor,
        "temperature": process.TemperatureLogitsWarper,
        "top_k": process.TopKLogitsWarper,
        "top_p": process.TopPLogitsWarper,
        "min_p": process.MinPLogitsWarper,
    }
    scores: Tensor = LogitsProcessorList([c(settings[n]) for n, c in classes.items() if n in settings])(
        ids, logits
    )
    return scores


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 1.0, "top_p": 1e-9},
        {"temperature": 1.0, "min_p": 0.2},
        {"repetition_penalty": 1.3, "temperature": 0.9},
        {"repetition_penalty": 0.8, "temperature": 1.0, "top_k": 20},
        {"repetition_penalty": 1.2, "temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("has_ties", [False, True])
def test_scores_match_transformers(settings: dict[str, Any], *, has_ties: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(16, 50, generator=generator) * 3
    if has_ties:
        logits = logits.round()
    ids = torch.randint(50, (16, 12), generator=generator)
    seen_tokens = torch.zeros(16, 50, dtype=torch.bool).scatter_(1, ids, value=True)
    scores = Sampling(**settings).scores(logits, seen_tokens)
    assert torch.equal(scores, reference_scores(settings, logits, ids))
    assert scores.isfinite().any(dim=-1).all()
    assert {"top_k", "top_p", "min_p"}.isdisjoint(settings) or scores.isinf().any()


def test_half_precision_logits_are_filtered_in_float32() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    sampling = Sampling(temperature=0.7, top_p=0.9)
    assert torch.equal(sampling.scores(logits), sampling.scores(logits.float()))


def test_the_most_likely_token_is_selected_after_the_penalty() -> None:
    logits, seen_tokens = torch.tensor([[2.0, 1.9, -1.0]]), torch.tensor([[True, False, False]])
    assert GREEDY.choose(logits, None, []).tolist() == [0]
    assert Sampling(repetition_penalty=1.1).choose(logits, seen_tokens, []).tolist() == [1]
    assert Sampling(repetition_penalty=1.01).choose(logits, seen_tokens, []).tolist() == [0]


def test_each_row_and_seed_draws_different_numbers() -> None:
    first_draws = {
        float(torch.rand((), generator=row_generator(seed, row), dtype=torch.float64))
        for seed in range(20)
        for row in range(20)
    }
    assert len(first_draws) == 400
    assert abs(sum(first_draws) / 400 - 0.5) < 4 * (1 / 12 / 400) ** 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected a number of at least 0, got -1.0"),
        ({"temperature": math.nan}, "temperature: expected a number of at least 0, got nan"),
        ({"temperature": math.inf}, "temperature: expected a number of at least 0, got inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k: expected a whole number above 0, or None, got 0"),
        (
            {"temperature": 1.0, "top_p": 0.0},
            "top_p: expected a number above 0 and at most 1, or None, got 0.0",
        ),
        (
            {"temperature": 1.0, "top_p": 1.5},
            "top_p: expected a number above 0 and at most 1, or None, got 1.5",
        ),
        (
            {"temperature": 1.0, "min_p": -0.1},
            "min_p: expected a number above 0 and at most 1, or None, got -0.1",
        ),
        ({"repetition_penalty": 0.0}, "repetition_penalty: expected a number above 0, got 0.0"),
        ({"top_k": 4, "min_p": 0.1}, "top_k has no effect at temperature 0 .* omit top_k and min_p"),
    ],
)
def test_errors_contain_the_option(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
