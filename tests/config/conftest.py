"""Fixtures: these tests trust the package of the sample recipe in addition to the default packages."""

from collections.abc import Iterator

import pytest

from tests.config import sample
from torchtune.config import Trust, only_trusting


@pytest.fixture(autouse=True)
def trust_the_sample(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TUNE_ALLOW", raising=False)
    sample.RUN_CONFIGS.clear()
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        yield
