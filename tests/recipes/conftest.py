"""The tests' own components are trusted here."""

from collections.abc import Iterator

import pytest
import torch

from torchtune.config import Trust, only_trusting
from torchtune.training import DTYPES


@pytest.fixture
def fp32_is_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs of dtype fp32 compute in float64, so that what differs is not their rounding.

    A step of Adam turns the rounding of a gradient that is all but zero into a whole step.
    """
    monkeypatch.setitem(DTYPES, "fp32", torch.float64)


@pytest.fixture(autouse=True)
def trusting_the_tests() -> Iterator[None]:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        yield
