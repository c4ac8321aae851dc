"""Programs of several processes over gloo, each run once in a session."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.once import once

ROOT = Path(__file__).parents[2]


def together(factory: pytest.TempPathFactory, program: str, size: int) -> Path:
    """Run a module of these tests as so many ranks, and return the folder that it was given.

    Args:
        factory: pytest's.
        program: The module's name; its `main` gets the folder.
        size: How many ranks.
    """
    return once(factory, f"{program}_{size}", lambda out: _run(program, size, out))


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
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.together", program, str(size), str(out)],
        cwd=ROOT,
        env=os.environ | common,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _main(program: str, size: int, out: Path) -> int:
    """Run a program as so many ranks: processes that share what they import, which takes longer than what they do."""
    module = importlib.import_module(f"tests.training.{program}")
    importlib.import_module("torch.distributed.fsdp")
    ranks = set()
    for rank in range(size):
        if (child := os.fork()) == 0:
            signal.alarm(240)  # ends one that waits for another in vain
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os._exit(_status(module.main, out))
        ranks.add(child)
    failed = 0
    while ranks:
        child, status = os.wait()
        ranks.remove(child)
        if status and not failed:
            failed = 1
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    return failed


def _status(main: Callable[[Path], None], out: Path) -> int:
    try:
        main(out)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
