"""Print progress, and handle Ctrl-C and a time limit, while torch's launcher waits for other nodes."""

import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from torchtune.runs import join_timeout
from torchtune.runs.console import INTERRUPTED

STARTED: Final = "TUNE_STARTED"
"""The environment variable with the path of a file, which a rank creates once the launcher has started it."""
_POLL_INTERVAL = 0.2
"""Seconds between checks for that file."""
_FIRST_MESSAGE = 2.0
"""Seconds of waiting before the first message; the delay doubles with each message."""


@contextmanager
def watch_launcher(options: Sequence[str], n_nodes: int) -> Iterator[None]:
    """Watch the launcher until it has started its ranks.

    The launcher waits for the other nodes in C++, where Python cannot handle signals, so a thread handles them.

    Args:
        options: The launcher's options, for messages.
        n_nodes: The number of nodes that the launcher waits for. A single node is not watched.
    """
    if n_nodes < 2:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        started = Path(folder, "started")
        os.environ[STARTED] = str(started)
        read, write = os.pipe()
        os.set_blocking(write, False)
        previous_fd = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        nodes = f"{n_nodes} nodes ({' '.join(options)})"
        threading.Thread(target=_watch, args=(read, started, nodes), name="nodes", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous_fd)
            os.close(write)  # ends the thread, which closes the read end
            del os.environ[STARTED]


def note_started() -> None:
    """Notify the launcher's process that this rank has started."""
    if STARTED in os.environ:
        Path(os.environ[STARTED]).touch()


def _watch(read: int, started: Path, nodes: str) -> None:
    """Wait until a rank has started; exit the process on Ctrl-C or after the time limit."""
    start_time, message_delay = time.monotonic(), _FIRST_MESSAGE
    with open(read, "rb", buffering=0) as pipe:
        while not started.exists():
            if select.select([pipe], [], [], _POLL_INTERVAL)[0]:
                signals = pipe.read(64)
                if not signals:  # the launcher has ended
                    return
                if signal.SIGINT in signals:
                    _exit("interrupted while waiting for other nodes", INTERRUPTED)
            waited = time.monotonic() - start_time
            if waited > join_timeout():
                advice = "start the other nodes, check that they can reach this one, or raise --join-timeout"
                _exit(f"fewer than {nodes} joined within {join_timeout():g} s; {advice}", 2)
            if waited > message_delay:
                message_delay *= 2
                sys.stderr.write(f"waiting for {nodes} to join; press Ctrl-C to stop\n")
                sys.stderr.flush()


def _exit(message: str, status: int) -> None:
    sys.stderr.write(f"\ntune: {message}\n")
    sys.stderr.flush()
    os._exit(status)
