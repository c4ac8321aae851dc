"""Programs of several processes over gloo, each run once in a session."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.once import once

ROOT = Path(__file__).parents[2]


def together(factory: pytest.TempPathFactory, program: str, size: int) -> Path:
    """Run a module of these tests as so many ranks, and return the folder that it was given.

    Args:
        factory: pytest's.
        program: The module's name; its one argument is the folder.
        size: How many ranks.
    """
    return once(factory, program, lambda out: _run(program, size, out))


def _run(program: str, size: int, out: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", f"tests.training.{program}", str(out)],
            cwd=ROOT,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    said = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(said)
