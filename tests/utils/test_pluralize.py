"""Numbers with units in messages."""

import pytest

from torchtune._pluralize import pluralize


@pytest.mark.parametrize(
    ("n", "expected"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (12_345, "12,345 steps")]
)
def test_a_unit_is_singular_only_for_one(n: int, expected: str) -> None:
    assert pluralize(n, "step") == expected
