"""A rank that raises an error ends the run on all ranks and nodes with its own message.

In these tests, collectives and the destruction of a process group block like the functions of NCCL: without the failed
rank, they never end, and Python cannot interrupt them. The functions of gloo raise an error instead.
"""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_waiting import free_port, tune

BLOCKING = '''
import ctypes

import torch.distributed as dist


def block_forever(*_: object, **__: object) -> None:
    """Lock a mutex of the C library twice."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def blocking(collective):
    def call(*args: object, **options: object) -> object:
        try:
            return collective(*args, **options)
        except Exception:
            block_forever()

    return call


for name in ("all_gather_object", "all_reduce", "barrier", "broadcast_object_list"):
    setattr(dist, name, blocking(getattr(dist, name)))
dist.destroy_process_group = block_forever
'''


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Return the exit status of a process and its standard error."""
    text = process.communicate(timeout=60)[1]
    return process.returncode, text


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "failing"), [(2, 0), (2, 1), (4, 2)])
def test_a_rank_that_raises_ends_the_ranks_of_its_node(tmp_path: Path, ranks: int, failing: int) -> None:
    process = tune(
        tmp_path, "--nproc_per_node", str(ranks), "RECIPE", f"fails_on=[{failing}]", setup=BLOCKING
    )
    assert end_of(process) == (2, f"tune: rank {failing} failed: rows.jsonl: line 7: no column 'output'\n")


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_raises_ends_the_ranks_of_other_nodes(tmp_path: Path, failing: int) -> None:
    port = str(free_port())
    address = ("--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port)
    nodes = []
    for node in range(2):
        (tmp_path / f"{node}").mkdir()
        options = (*address, "--node_rank", f"{node}", "RECIPE", f"fails_on=[{failing}]")
        nodes.append(tune(tmp_path / f"{node}", *options, setup=BLOCKING))
    outcomes = [end_of(process) for process in nodes]
    assert [status for status, _ in outcomes] == [2 if node == failing else 1 for node in range(2)]
    last_lines = [
        text.splitlines()[-1] for _, text in outcomes
    ]  # earlier ones report the wait for the other node
    message = "failed: rows.jsonl: line 7: no column 'output'"
    assert last_lines[failing] == f"tune: rank {failing} {message}"
    assert last_lines[1 - failing] == f"tune: rank {failing} on {socket.gethostname()} {message}"
