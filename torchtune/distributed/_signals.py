"""Signals that ask a run to stop after its step and a checkpoint; a second Ctrl-C ends it at once."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Self

from torchtune.distributed._world import World

GRACE = 240.0
"""How long a step and its checkpoint may take after SIGTERM before the process exits (seconds)."""
_NOTICES = {
    signal.SIGINT: b"\ninterrupted: finishing this step and saving it; Ctrl-C again ends at once\n",
    signal.SIGTERM: b"SIGTERM: finishing this step and saving it\n",
}
_LOOK = 200
"""How often the other ranks are checked (milliseconds)."""


class Stopped(KeyboardInterrupt):
    """The run ended because of a signal, and can resume; the message names the checkpoint.

    Args:
        message: For the user.
        number: The signal; the exit status is 128 above it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopRequests:
    """Records SIGTERM and the first Ctrl-C (SIGINT); a second Ctrl-C ends the process at once.

    Use it as a context manager around the loop; outside of it the signals have their usual effect. With several ranks,
    torch's launcher also sends SIGTERM to the others after one has died. These may be waiting for it in a collective,
    which Python code cannot interrupt, so a thread ends the process as soon as a rank on this machine is gone.

    Args:
        world: The ranks of this run.
        resume_hint: Tells the user how to resume the run.
    """

    def __init__(self, world: World, resume_hint: str = "the same command continues") -> None:
        self._world = world
        self._resume_hint = resume_hint
        self.received: int | None = None
        """The first signal received."""
        self._peers: list[int] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread can handle signals
        for number in (signal.SIGTERM, signal.SIGINT):
            self._stack.callback(signal.signal, number, signal.signal(number, self._handle))
        if self._world.size > 1:
            self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the handlers of before."""
        self._stack.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise Stopped(f"interrupted twice; {self._resume_hint} from the last checkpoint", number)
        # After a rank has died, SIGTERM comes from the launcher, and nothing is saved.
        if self.received is None and self._world.is_main and all(map(_exists, self._peers)):
            os.write(2, _NOTICES[signal.Signals(number)])
        self.received = self.received or number

    def _watch(self) -> None:
        """Start a thread that notices SIGTERM even while this one waits in a collective."""
        hostname = socket.gethostname()
        ranks = self._world.gather((hostname, os.getpid()))
        # A process that does not exist is in another PID namespace, whose numbers mean nothing in this one.
        self._peers = [pid for host, pid in ranks if host == hostname and _exists(pid)]
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._stack.callback(os.close, write)  # ends the thread, which closes the other side
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        threading.Thread(target=_give_up, args=(read, self._peers), name="stop", daemon=True).start()


def _give_up(read: int, peers: list[int]) -> None:
    """End the process a while after SIGTERM, or as soon as a peer is gone after it."""
    with open(read, "rb", buffering=0) as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        came = b""
        while signal.SIGTERM not in came:
            came = pipe.read(64)
            if not came:  # the run is over
                return
        started = time.monotonic()
        while time.monotonic() - started <= GRACE and all(map(_exists, peers)):
            if poll.poll(_LOOK) and not pipe.read(64):
                return
        sys.stderr.flush()
        os._exit(128 + signal.SIGTERM)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):  # without /proc, a zombie counts as existing
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return True
