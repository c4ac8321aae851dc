"""Run each test program once per test session, on multiple ranks over gloo."""

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

from tests.shared_folder import shared_folder

ROOT = Path(__file__).parents[2]


def run_ranks(factory: pytest.TempPathFactory, program: str, size: int) -> Path:
    """Run a module of this package on multiple ranks; return the folder with its results.

    Args:
        factory: pytest's factory of temporary folders.
        program: The module's name; its `main` is called with the folder.
        size: Number of ranks.
    """
    return shared_folder(factory, f"{program}_{size}", lambda out: _run(program, size, out))


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
    process = subprocess.run(
        [sys.executable, "-m", "tests.training.run_ranks", program, str(size), str(out)],
        cwd=ROOT,
        env=os.environ | common,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def _main(program: str, size: int, out: Path) -> int:
    """Run a program on multiple ranks, forked after the imports because these take longer than the program itself."""
    module = importlib.import_module(f"tests.training.{program}")
    importlib.import_module("torch.distributed.fsdp")
    ranks = set()
    for rank in range(size):
        if (child := os.fork()) == 0:
            signal.alarm(240)  # kills a rank that would wait forever for another rank
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
