"""Calls of `tune` in the test process."""

from typing import NamedTuple

import pytest

from torchtune.cli import main


class Result(NamedTuple):
    """The exit status and the output of a call to `tune`."""

    status: int
    out: str
    err: str


class Tune:
    """Calls `tune` and captures its output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: str) -> Result:
        self._capsys.readouterr()
        status = main(args)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return Result(status, out, err)
