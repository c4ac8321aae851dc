"""While torch's launcher waits for other nodes: say so, and let Ctrl-C and the time limit end it."""

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
"""The environment variable with the file that a rank creates when the launcher has started it."""
_LOOK = 0.2
_FIRST_NOTE = 2.0
"""After how long it is first said that other nodes are waited for (seconds); then after twice as long, and so on."""


@contextmanager
def speaking_of_nodes(options: Sequence[str], n_nodes: int) -> Iterator[None]:
    """Watch over the launcher until it has started its ranks.

    It waits for the other nodes in C++, where Python does not handle signals, so that a thread does.

    Args:
        options: The launcher's options, for messages.
        n_nodes: How many nodes it waits for; nothing is done for one.
    """
    if n_nodes < 2:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        started = Path(folder, "started")
        os.environ[STARTED] = str(started)
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        what = f"{n_nodes} nodes ({' '.join(options)})"
        threading.Thread(target=_watch, args=(read, started, what), name="nodes", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(write)  # ends the thread, which closes the other side
            del os.environ[STARTED]


def note_started() -> None:
    """Tell the launcher's process that this rank has started."""
    if STARTED in os.environ:
        Path(os.environ[STARTED]).touch()


def _watch(read: int, started: Path, what: str) -> None:
    """Wait until a rank has started, or end the process."""
    began, note_after = time.monotonic(), _FIRST_NOTE
    with open(read, "rb", buffering=0) as pipe:
        while not started.exists():
            if select.select([pipe], [], [], _LOOK)[0]:
                numbers = pipe.read(64)
                if not numbers:  # the launcher has ended
                    return
                if signal.SIGINT in numbers:
                    _end("interrupted while waiting for other nodes", INTERRUPTED)
            waited = time.monotonic() - began
            if waited > join_timeout():
                advice = (
                    "start the others, check that they reach this one, or wait longer with --join-timeout"
                )
                _end(f"not all of {what} have joined within {join_timeout():g} s; {advice}", 2)
            if waited > note_after:
                note_after *= 2
                sys.stderr.write(f"waiting until all of {what} have joined; Ctrl-C ends\n")
                sys.stderr.flush()


def _end(message: str, status: int) -> None:
    sys.stderr.write(f"\ntune: {message}\n")
    sys.stderr.flush()
    os._exit(status)
