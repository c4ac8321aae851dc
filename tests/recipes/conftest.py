"""Fixtures of the recipe tests, which trust the components in `tests`."""

from collections.abc import Iterator

import pytest
import torch

from torchtune.config import Trust, only_trusting
from torchtune.training import DTYPES


@pytest.fixture
def fp32_is_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run dtype fp32 in float64, so that rounding does not cause differences.

    Adam turns the rounding error of a gradient close to zero into a full step.
    """
    monkeypatch.setitem(DTYPES, "fp32", torch.float64)


@pytest.fixture(autouse=True)
def trusting_the_tests() -> Iterator[None]:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        yield
