"""If the wrong limit of a finished run is raised, the error names the limit that the run has reached."""

from typing import Any

import pytest

from torchtune.runs._extension import extended_limits, reached_limit


def limits(epochs: int, max_steps: int | None = None, per_epoch: int | None = None) -> dict[str, Any]:
    return {"epochs": epochs, "max_steps": max_steps, "max_steps_per_epoch": per_epoch}


@pytest.mark.parametrize(
    ("previous", "current", "step", "reached"),
    [
        (limits(1, 10), limits(3, 10), 10, ("max_steps",)),
        (limits(1, 10), limits(1, 11), 10, ()),
        (limits(1), limits(2), 24, ()),
        (limits(1), limits(2, 24), 24, ("max_steps",)),
        (limits(2, None, 10), limits(4, None, 5), 20, ("epochs", "max_steps_per_epoch")),
        (limits(2, None, 10), limits(2, None, 11), 20, ()),
        (limits(1, None, 100), limits(1, None, 200), 24, ("epochs",)),
        (limits(1, None, 100), limits(1), 24, ("epochs",)),
        (limits(1, None, 100), limits(2, None, 100), 24, ()),
    ],
)
def test_error_names_the_limit_that_does_not_extend_the_run(
    previous: dict[str, Any], current: dict[str, Any], step: int, reached: tuple[str, ...]
) -> None:
    assert reached_limit(previous, current, step) == reached


def test_limits_of_multiple_extensions_are_combined() -> None:
    entries = [
        {"epochs": [1, 2], "max_steps": [None, None], "max_steps_per_epoch": [None, None]},
        {"epochs": [2, 3], "max_steps": [None, None], "max_steps_per_epoch": [None, None]},
    ]
    assert extended_limits({"extended": entries}) == {"epochs": [1, 2, 3]}
    assert extended_limits({}) == {}
