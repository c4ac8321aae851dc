"""Full epochs on one, two and four ranks, compared with steps computed example by example."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.tolerance import FLOAT64
from tests.training.epoch_ranks import CASES, EPOCHS, LR, Case, rows, train
from tests.training.run_ranks import run_ranks
from tests.training.tiny import SINGLE_RANK, tiny_model
from torchtune.data import IGNORE_INDEX, Example

SIZES = [1, 2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.fixture(params=SIZES)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the result of each case on a number of ranks."""
    if request.param == 1:
        return [train(SINGLE_RANK, case) for case in CASES]
    loaded: list[dict[str, Any]] = torch.load(
        run_ranks(tmp_path_factory, "epoch_ranks", request.param) / "results.pt"
    )
    return loaded


@pytest.mark.slow
def test_every_epoch_trains_every_row_once(results: list[dict[str, Any]]) -> None:
    for case, result in zip(CASES, results, strict=True):
        trained = [row for _, numbers, _ in result["steps"] for row in numbers]
        assert Counter(trained) == Counter(list(range(case.n_rows)) * EPOCHS), case
        first_epoch = Counter(trained[: case.n_rows])
        assert first_epoch == Counter(range(case.n_rows)), case


@pytest.mark.slow
def test_losses_and_weights_match_an_example_by_example_computation(results: list[dict[str, Any]]) -> None:
    for case, result in zip(CASES, results, strict=True):
        losses, parameters = train_example_by_example(case, [numbers for _, numbers, _ in result["steps"]])
        assert [loss for _, _, loss in result["steps"]] == pytest.approx(losses, rel=FLOAT64), case
        for name, expected in parameters.items():
            torch.testing.assert_close(result["parameters"][name], expected, rtol=FLOAT64, atol=FLOAT64)


def train_example_by_example(
    case: Case, steps: list[list[int]]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Compute the loss of each step and the final weights, one example at a time."""
    torch.manual_seed(0)
    model, data = tiny_model(), rows(case.n_rows)
    losses = []
    for numbers in steps:
        n_targets = sum(label != IGNORE_INDEX for i in numbers for label in data[i].labels[1:])
        loss = sum(summed_loss(model, data[i]) for i in numbers) / n_targets
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.sub_(LR * parameter.grad)
                parameter.grad = None
    return losses, {name: p.detach() for name, p in model.named_parameters()}


def summed_loss(model: Any, example: Example) -> Any:
    """Return the summed cross-entropy of an example's targets."""
    logits = model(torch.tensor([example.tokens[:-1]]))[0]
    labels = torch.tensor(example.labels[1:])
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
