"""Signals that ask a run to end: it finishes its step and writes a checkpoint, unless it is asked twice."""

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

from torchtune.training._world import World

GRACE = 240.0
"""How long a step and its checkpoint may take after SIGTERM before the process gives up (seconds)."""
_LOOK = 200
"""How often it is looked whether the other ranks are there (milliseconds)."""


class Stopped(KeyboardInterrupt):
    """The run ended because it was asked to, and can go on; the message says what is kept.

    Args:
        message: For the user.
        number: The signal's; the process's status is to be 128 above it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class StopRequests:
    """Whether SIGTERM came, or Ctrl-C (SIGINT) once; the second Ctrl-C ends the process at once.

    Use it as a context manager around what may be finished before the run ends; elsewhere the signals do what they
    always do. Among several ranks, SIGTERM is also how torch's launcher ends the others after one has died. They may
    be waiting for that one then, in a collective that no Python code interrupts, so a thread ends the process as soon
    as a rank on this machine is gone.

    Args:
        world: This process and its fellows.
        resume_hint: How to resume the run, in words.
    """

    def __init__(self, world: World, resume_hint: str = "the same command continues") -> None:
        self._world = world
        self._resume_hint = resume_hint
        self.received: int | None = None
        """The signal that came first."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets the main thread alone handle signals
        for number in (signal.SIGTERM, signal.SIGINT):
            self._stack.callback(signal.signal, number, signal.signal(number, self._handle))
        if self._world.size > 1:
            self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the signals do again what they did before."""
        self._stack.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise Stopped(f"interrupted twice; {self._resume_hint} from the last checkpoint", number)
        if self.received is None and number == signal.SIGINT and self._world.is_main:
            os.write(2, b"\ninterrupted: finishing this step and saving it; Ctrl-C again ends at once\n")
        self.received = self.received or number

    def _watch(self) -> None:
        """Have a thread hear of SIGTERM even while this one waits within a collective."""
        here = socket.gethostname()
        # A process that is not there now is in a namespace of its own, where numbers mean others.
        named = [pid for host, pid in self._world.gather((here, os.getpid())) if host == here]
        peers = [pid for pid in named if _is_there(pid)]
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._stack.callback(os.close, write)  # ends the thread, which closes the other side
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        threading.Thread(target=_give_up, args=(read, peers), name="stop", daemon=True).start()


def _give_up(read: int, peers: list[int]) -> None:
    """End the process some time after SIGTERM came, or as soon as a peer is gone then."""
    with open(read, "rb", buffering=0) as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        came = b""
        while signal.SIGTERM not in came:
            came = pipe.read(64)
            if not came:  # the run is over
                return
        asked = time.monotonic()
        while time.monotonic() - asked <= GRACE and all(map(_is_there, peers)):
            if poll.poll(_LOOK) and not pipe.read(64):
                return
        sys.stderr.flush()
        os._exit(128 + signal.SIGTERM)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):  # without /proc, one that has ended counts as there
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return True
