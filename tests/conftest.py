"""What every test runs under: no network through the hub, and one thread, since tests share two cores."""

import os

import pytest

from tests.tune import Tune

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-configs", action="store_true", help="write configs_yaml/ anew from configs_py/")


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str]) -> Tune:
    """Return `tune` as a function of its words."""
    return Tune(capsys)
