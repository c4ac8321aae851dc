"""End all ranks of a run after one of them has failed, on every node."""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, not in `__all__`

from torchtune.runs.console import failure_of

_KEY = "failure"
"""The key of the first failure's message in the key-value store."""
_POLL_INTERVAL = 0.5
"""Time between checks for a failure (seconds)."""
_GRACE_PERIOD = 3.0
"""Time between detecting a failure and exiting (seconds), in which this rank may end or report an error itself."""
_STORE_TIMEOUT = timedelta(seconds=30)
"""Timeout of requests to the key-value store."""


class FailureWatch:
    """Reports this rank's failure to the other ranks, and ends this process if another rank has failed.

    Collectives of NCCL wait for a failed rank until their timeout (30 minutes), and Python code cannot interrupt them.
    A launcher ends only the ranks on the same node. Therefore, every rank has a thread that reads failures from the
    key-value store of the run.

    Args:
        host: The host of the key-value store, which rank 0 serves.
        port: Its port.
        rank: The index of this rank.
    """

    def __init__(self, host: str, port: int, rank: int) -> None:
        # A separate connection: another thread may block the one of the process group by waiting for a key.
        self._store = TCPStore(host, port, is_master=False, timeout=_STORE_TIMEOUT, wait_for_workers=False)
        self._rank = rank
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="failures", daemon=True).start()

    def report(self, error: Exception) -> None:
        """Report a failure of this rank to the other ranks, and stop watching."""
        self.stop()
        reason = f"failed: {failure_of(error).message}"
        if is_secondary(error):
            reason = "lost its connection to another rank, which has exited"
        text = f"rank {self._rank} on {socket.gethostname()} {reason}"
        with contextlib.suppress(dist.DistError):  # rank 0 has exited
            self._store.compare_set(_KEY, "", text)
        if self._rank == 0:  # the store ends with this process
            time.sleep(2 * _POLL_INTERVAL)

    def stop(self) -> None:
        """Stop watching: the run ends."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(_POLL_INTERVAL):
            try:
                if not self._store.check([_KEY]):
                    continue
                text = self._store.get(_KEY).decode()
            except dist.DistError:
                text = "rank 0 has exited or cannot be reached"
            if not self._stopped.wait(_GRACE_PERIOD):
                record_failure(text, summary=text, is_secondary=True)
                os._exit(1)


def is_secondary(error: Exception) -> bool:
    """Return whether an error of gloo, NCCL or the store is a consequence of the exit of another rank."""
    is_distributed_error = isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and "gloo" in str(error)
    )
    return (
        is_distributed_error
        and re.search(r"[Cc]onnection|[Tt]imed? ?out|remote process|peer", str(error)) is not None
    )


def record_failure(message: str, *, summary: str, is_secondary: bool) -> None:
    """Record a rank's failure for the launcher's process, or print it if there is no launcher.

    Args:
        message: The message for the user; may contain a traceback.
        summary: The message in one line; empty if `message` is needed.
        is_secondary: Whether the failure is a consequence of another rank's failure.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None:
        sys.stderr.write(message if message.endswith("\n") else f"tune: {message}\n")
        sys.stderr.flush()
        return
    record = {"message": message, "summary": summary, "is_secondary": is_secondary}
    record["timestamp"] = int(time.time())  # torchrun requires a timestamp and a message
    Path(file).write_text(json.dumps(record), encoding="utf-8")
