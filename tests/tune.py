"""Calling `tune` in process."""

from typing import NamedTuple

import pytest

from torchtune.cli import main


class Result(NamedTuple):
    """What a call of `tune` left."""

    status: int
    out: str
    err: str


class Tune:
    """Calls `tune`, with what it printed as the result."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Result:
        self._capsys.readouterr()
        status = main(words)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return Result(status, out, err)
