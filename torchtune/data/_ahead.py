"""Processes that encode windows before they are needed."""

import contextlib
import logging
import os
import pickle
import struct
import subprocess
import sys
import threading
import weakref
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from typing import IO, Any, Generic

from torchtune.data._item import ItemT
from torchtune.data._windows import Window, Windows

_logger = logging.getLogger(__name__)

_EACH = 2
"""Windows that are asked of a process before the first of them is needed."""
_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer);"
    " from torchtune.data._worker import main; main()"
)


class Ahead(Generic[ItemT]):
    """Reads windows ahead, in their order; what no process has begun is read at once.

    The processes are asked through pipes, so that they neither share a CUDA context nor import the program that
    started them, and end with it. Should one die, windows are read without them.

    Args:
        windows: What is read.
        workers: How many processes; 0: none.
    """

    def __init__(self, windows: Windows[ItemT], workers: int) -> None:
        self._windows = windows
        self._n_workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._asked: dict[int, Future[Window[ItemT]]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._own = threading.local()
        weakref.finalize(self, _end, self._processes)
        if workers:
            self._start()

    def begin(self, number: int) -> None:
        """Let the windows from `number` on be read ahead, and no others."""
        for future in self._asked.values():
            future.cancel()
        self._asked = {}
        self._ask(number)

    def read(self, number: int) -> Window[ItemT]:
        """Read a window, and let those after it be read ahead."""
        future = self._asked.pop(number, None)
        self._ask(number + 1)
        if future is None or future.cancel():
            return self._windows.read(number)
        try:
            return future.result()
        except BrokenExecutor as error:
            _logger.warning(
                "%s; from here on, rows are encoded when they are needed", error.__cause__ or error
            )
            self.close()
            return self._windows.read(number)

    def close(self) -> None:
        """End the processes."""
        pool = self._pool
        self._pool = None
        self._asked = {}
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        _end(self._processes)
        if pool is not None:
            pool.shutdown(wait=True)
            _end(self._processes)  # one that was just being started

    def _start(self) -> None:
        """Make the pool, whose threads each start a process with the first that is asked."""
        try:
            sent = pickle.dumps(self._windows)
        except Exception as error:  # of whatever kind a dataset that cannot be sent causes
            _logger.warning("rows are encoded when they are needed: the dataset cannot be sent (%s)", error)
            return
        # A thread for each process; what is asked of a thread waits until its process is there.
        self._pool = ThreadPoolExecutor(self._n_workers, "ahead", self._open, (sent,))

    def _ask(self, first: int) -> None:
        """Ask for the windows from `first` on."""
        if self._pool is None:
            return
        for number in range(first, first + _EACH * self._n_workers):
            if number not in self._asked:
                self._asked[number] = self._pool.submit(self._reply, number)

    def _open(self, sent: bytes) -> None:
        """Start this thread's process."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(  # noqa: S603 - our own program.
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # Ctrl-C is for the process that reads: it decides
        )
        self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        self._own.process = process
        with contextlib.suppress(OSError):  # that it has ended is found when it is asked for something
            process.stdin.write(pickle.dumps(sys.path))
            send(process.stdin, sent)
            receive(process.stdout)

    def _reply(self, number: int) -> Window[ItemT]:
        """Ask this thread's process for a window."""
        process = self._own.process
        try:
            send(process.stdin, pickle.dumps(number))
            answer = receive(process.stdout)
        except (OSError, ValueError):  # a pipe that was closed meanwhile
            answer = None
        if answer is None:
            raise BrokenExecutor(f"a process that encodes rows ahead ended with status {process.wait()}")
        window: Any = pickle.loads(answer)  # noqa: S301 - our own process wrote it.
        if isinstance(window, BaseException):
            raise window
        result: Window[ItemT] = window
        return result


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what it did not read any more
                if pipe is not None:
                    pipe.close()


def send(pipe: IO[bytes], message: bytes) -> None:
    """Write a message behind its length."""
    pipe.write(struct.pack("<Q", len(message)) + message)
    pipe.flush()


def receive(pipe: IO[bytes]) -> bytes | None:
    """Read a message; None where the other side has ended."""
    size = pipe.read(8)
    if len(size) < 8:
        return None
    message = pipe.read(struct.unpack("<Q", size)[0])
    return message if len(message) == struct.unpack("<Q", size)[0] else None
