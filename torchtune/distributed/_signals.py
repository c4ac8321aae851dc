"""Stop a run on a signal, after finishing the step and saving a checkpoint; a second Ctrl-C ends the run at once."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Self

from torchtune.distributed._world import World

MIN_GRACE_PERIOD = 240.0
"""Minimum time allowed after SIGTERM to finish the step and save its checkpoint (seconds); then the process exits."""
_NOTICES = {
    signal.SIGINT: b"\ninterrupted: finishing this step and saving a checkpoint; press Ctrl-C again to exit at once\n",
    signal.SIGTERM: b"SIGTERM: finishing this step and saving a checkpoint\n",
}
_POLL_INTERVAL = 200
"""Time between checks that the other ranks are alive (milliseconds)."""


class Stopped(KeyboardInterrupt):
    """A signal stopped the run, which can be resumed; the message names the checkpoint.

    Args:
        message: The message for the user.
        number: The signal number; the exit status is 128 + number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopRequests:
    """Records SIGTERM and the first Ctrl-C (SIGINT); a second Ctrl-C ends the process at once.

    Use it as a context manager around the loop; elsewhere, signals have their usual effect. A second Ctrl-C does not
    raise an exception, because Python ignores exceptions in finalizers and some callbacks. In interactive
    sessions, such as notebooks, it raises `Stopped`, so that the session survives.

    With multiple ranks, torch's launcher sends SIGTERM to the ranks when it receives a second Ctrl-C; therefore, any
    signal after Ctrl-C ends the process. The launcher also sends SIGTERM to the remaining ranks after one has died.
    They may be waiting for the dead rank in a collective, which Python code cannot interrupt. Therefore, after SIGTERM,
    a thread ends the process once a rank on this machine has died.

    Args:
        world: The ranks of this run.
        resume_hint: Instructions for resuming the run, included in messages.
        save_seconds: Returns the time that writing the last checkpoint took (seconds), or None. After SIGTERM, the run
            has twice this time, and at least `MIN_GRACE_PERIOD`.
    """

    def __init__(
        self,
        world: World,
        resume_hint: str = "run the same command to resume",
        save_seconds: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._world = world
        self._resume_hint = resume_hint
        self._save_seconds = save_seconds
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
        """Restore the previous handlers."""
        self._stack.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and signal.SIGINT in (number, self.received):
            self._exit_at_once()
        # If a rank has died, SIGTERM comes from the launcher, and no checkpoint is saved.
        if self.received is None and self._world.is_main and all(map(_exists, self._peers)):
            os.write(2, _NOTICES[signal.Signals(number)])
        self.received = self.received or number

    def _exit_at_once(self) -> None:
        message = f"interrupted twice; {self._resume_hint} from the last checkpoint"
        if hasattr(sys, "ps1"):  # set in interactive sessions
            raise Stopped(message, signal.SIGINT)
        with contextlib.suppress(Exception):  # the signal may have arrived while the stream was being flushed
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"\n{message}\n".encode() * self._world.is_main)
        os._exit(128 + signal.SIGINT)

    def _watch(self) -> None:
        """Start a thread that handles SIGTERM even while the main thread waits in a collective."""
        hostname = socket.gethostname()
        ranks = self._world.gather((hostname, os.getpid()))
        # A process that does not seem to exist runs in another PID namespace, whose PIDs are not valid in this one.
        self._peers = [pid for host, pid in ranks if host == hostname and _exists(pid)]
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._stack.callback(os.close, write)  # ends the thread, which closes the read end
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        threading.Thread(
            target=_exit_when_stuck, args=(read, self._peers, self._grace_period), name="stop", daemon=True
        ).start()

    def _grace_period(self) -> float:
        """Return the time allowed after SIGTERM to finish the step and save its checkpoint (seconds)."""
        return max(MIN_GRACE_PERIOD, 2 * (self._save_seconds() or 0.0))


def _exit_when_stuck(read: int, peers: list[int], grace_period: Callable[[], float]) -> None:
    """Wait for SIGTERM, then end the process once the grace period is over or a peer has died."""
    with open(read, "rb", buffering=0) as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        signals = b""
        while signal.SIGTERM not in signals:
            signals = pipe.read(64)
            if not signals:  # the run is over
                return
        ends = time.monotonic() + grace_period()
        while time.monotonic() <= ends and all(map(_exists, peers)):
            if poll.poll(_POLL_INTERVAL) and not pipe.read(64):
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
