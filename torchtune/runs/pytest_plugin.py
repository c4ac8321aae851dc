"""torchtune's pytest plugin: golden renderings of configs, and an option that rewrites them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-configs`."""
    group = parser.getgroup("torchtune")
    group.addoption("--update-configs", action="store_true", help="rewrite the golden renderings of configs")


@pytest.fixture
def golden_config(request: pytest.FixtureRequest) -> Callable[[Any, Path], None]:
    """Return a function that compares a config's rendering with a file: `golden_config(config, file)`."""
    from torchtune.runs.testing import compare_with_golden

    update = bool(request.config.getoption("--update-configs"))

    def compare(config: Any, file: Path) -> None:
        __tracebackhide__ = True
        compare_with_golden(config, Path(file), update=update)

    return compare
