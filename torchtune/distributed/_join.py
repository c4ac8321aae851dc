"""Join the process group of a run and report missing ranks; a signal interrupts the wait."""

import os
import socket
import sys
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # documented, not in `__all__`

from torchtune.distributed._failures import FailureWatch
from torchtune.runs import join_timeout

_POLL_INTERVAL = 0.2
"""Time between checks for ranks that have joined (seconds)."""
_FIRST_REPORT = 2.0
"""Time after which missing ranks are first reported (seconds); this time doubles with each report."""
_STORE_TIMEOUT = timedelta(seconds=30)
"""Timeout of requests to the key-value store."""
_COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Timeout of collectives: torch's default."""


def join_ranks(backend: str, rank: int, size: int) -> FailureWatch:
    """Join the process group of a run, which torchrun's environment variables, such as WORLD_SIZE, describe.

    Until all ranks have joined, Ctrl-C ends this process at once; torch's own wait cannot be interrupted.

    Args:
        backend: A backend of torch.distributed.
        rank: The index of this rank.
        size: Number of ranks.

    Returns:
        The watch that ends this process if another rank fails.

    Raises:
        ValueError: A rank has not joined within the time limit, or rank 0 cannot listen on its address.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = _Wait(rank, size, f"{host}:{port}")
    store = _open(host, port, rank, size, wait)
    store.set(f"joined/{rank}", "1")
    missing = list(range(size))
    while missing := [other for other in missing if not store.check([f"joined/{other}"])]:
        wait.wait_for(_rank_names(missing))
    store.set_timeout(_COLLECTIVE_TIMEOUT)
    dist.init_process_group(backend, store=PrefixStore("run", store), rank=rank, world_size=size)
    return FailureWatch(host, port, rank)


def _open(host: str, port: int, rank: int, size: int, wait: "_Wait") -> TCPStore:
    """Open the key-value store of the ranks: rank 0 serves it, and the other ranks wait for it and connect."""
    while rank and not _is_listening(host, port):  # torch would print stack traces on each failed attempt
        wait.wait_for("rank 0")
    try:
        return TCPStore(host, port, size, is_master=rank == 0, timeout=_STORE_TIMEOUT, wait_for_workers=False)
    except dist.DistError as error:  # the port is in use, or the address belongs to another host
        reason = str(error).partition("\n")[0]
        raise ValueError(f"rank {rank} cannot use {host}:{port}: {reason}") from error


def _is_listening(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


class _Wait:
    """Waits for missing ranks, reports them at increasing intervals, and raises ValueError at the time limit.

    Args:
        rank: The index of this rank.
        size: Number of ranks.
        address: The address of rank 0 (host:port).
    """

    def __init__(self, rank: int, size: int, address: str) -> None:
        self._rank, self._size, self._address = rank, size, address
        self._started = time.monotonic()
        self._report_after = _FIRST_REPORT

    def wait_for(self, missing: str) -> None:
        """Sleep for one polling interval, and report the missing ranks if a report is due."""
        waited = time.monotonic() - self._started
        if waited > join_timeout():
            raise ValueError(
                f"{missing} did not join at {self._address} within {join_timeout():g} s; start any missing rank, check"
                f" that its host can reach that address, or wait longer with --join-timeout{_hint(self._size)}"
            )
        if waited > self._report_after:
            self._report_after *= 2
            if os.environ.get("LOCAL_RANK", "0") == "0":  # one rank per host
                sys.stderr.write(
                    f"rank {self._rank} is waiting for {missing} at {self._address}; Ctrl-C aborts{_hint(self._size)}\n"
                )
                sys.stderr.flush()
        time.sleep(_POLL_INTERVAL)


def _rank_names(ranks: list[int]) -> str:
    """Return the names of ranks, abbreviated if there are many."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    listed_ranks = ", ".join(map(str, ranks[:8]))
    return f"ranks {listed_ranks}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def _hint(size: int) -> str:
    """Return a hint to unset WORLD_SIZE, or an empty string if a launcher has set it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return ""
    return f"; WORLD_SIZE={size} is set in the environment: unset it to run on one rank"
