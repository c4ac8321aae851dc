"""Fixtures: these tests trust the components in `tests`."""

from collections.abc import Iterator

import pytest

from torchtune.config import Trust, only_trusting


@pytest.fixture(autouse=True)
def trust_the_tests() -> Iterator[None]:
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        yield
