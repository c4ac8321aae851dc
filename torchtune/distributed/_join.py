"""How the ranks of a run find each other: they say whom they wait for, and a signal ends the waiting."""

import os
import socket
import sys
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # documented, not in `__all__`

from torchtune.runs import join_timeout

_LOOK = 0.2
"""How often it is checked who has joined (seconds)."""
_FIRST_NOTE = 2.0
"""After how long it is first said whom a rank waits for (seconds); then after twice as long, and so on."""
_OF_STORE = timedelta(seconds=30)
"""How long an answer of the store may take."""
_OF_COLLECTIVES = timedelta(minutes=30)
"""How long a collective may take: torch's default."""


def join_ranks(backend: str, rank: int, size: int) -> None:
    """Join the process group of a run, which WORLD_SIZE and the like describe.

    Until all ranks have joined, Ctrl-C ends this process at once, which torch's own waiting does not allow.

    Args:
        backend: A backend of torch.distributed.
        rank: The number of this rank.
        size: Number of ranks.

    Raises:
        ValueError: A rank has not joined within the time limit, or rank 0 cannot listen at its address.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait = _Wait(rank, size, f"{host}:{port}")
    store = _open(host, port, rank, size, wait)
    store.set(f"joined/{rank}", "1")
    missing = list(range(size))
    while missing := [other for other in missing if not store.check([f"joined/{other}"])]:
        wait.look_again_later(_named(missing))
    store.set_timeout(_OF_COLLECTIVES)
    dist.init_process_group(backend, store=PrefixStore("run", store), rank=rank, world_size=size)


def _open(host: str, port: int, rank: int, size: int, wait: "_Wait") -> TCPStore:
    """Hold the key-value store of the ranks, as rank 0, or connect to it as soon as rank 0 holds it."""
    while rank and not _is_listening(host, port):  # torch would print stack traces while it tries
        wait.look_again_later("rank 0")
    try:
        return TCPStore(host, port, size, is_master=rank == 0, timeout=_OF_STORE, wait_for_workers=False)
    except dist.DistError as error:  # the port is taken, or the address is another host's
        reason = str(error).partition("\n")[0]
        raise ValueError(f"rank {rank} cannot use {host}:{port}: {reason}") from error


def _is_listening(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


class _Wait:
    """Waits for other ranks, says so at growing intervals, and raises at the time limit.

    Args:
        rank: The number of this rank.
        size: Number of ranks.
        address: Where they meet.
    """

    def __init__(self, rank: int, size: int, address: str) -> None:
        self._rank, self._size, self._address = rank, size, address
        self._began = time.monotonic()
        self._note_after = _FIRST_NOTE

    def look_again_later(self, awaited: str) -> None:
        """Sleep for a moment, and maybe say who is awaited."""
        waited = time.monotonic() - self._began
        if waited > join_timeout():
            raise ValueError(
                f"{awaited} did not join at {self._address} within {join_timeout():g} s; start it, check that its host"
                f" can reach that address, or wait longer with --join-timeout{_hint(self._size)}"
            )
        if waited > self._note_after:
            self._note_after *= 2
            if os.environ.get("LOCAL_RANK", "0") == "0":  # one of each host
                sys.stderr.write(
                    f"rank {self._rank} waits for {awaited} at {self._address}; Ctrl-C ends{_hint(self._size)}\n"
                )
                sys.stderr.flush()
        time.sleep(_LOOK)


def _named(ranks: list[int]) -> str:
    """Name ranks in a few words."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = ", ".join(map(str, ranks[:8]))
    return f"ranks {shown}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def _hint(size: int) -> str:
    """Say where the number of ranks comes from if the launcher has not set it, and how to have one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return ""
    return f"; WORLD_SIZE={size} is in the environment: unset it to run on one rank"
