"""Fixtures for the recipe tests, whose configs may use components defined in `tests`."""

from collections.abc import Iterator

import pytest
import torch

from torchtune.config import Trust, only_trusting
from torchtune.placement import DTYPES


@pytest.fixture
def fp32_is_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float64 if dtype is fp32, so that rounding does not cause differences.

    Adam turns the rounding error of a gradient close to zero into a full step.
    """
    monkeypatch.setitem(DTYPES, "fp32", torch.float64)


@pytest.fixture(autouse=True)
def trust_tests() -> Iterator[None]:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        yield
