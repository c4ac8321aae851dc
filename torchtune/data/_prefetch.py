"""Worker processes that encode packing windows before they are needed."""

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

_WINDOWS_PER_WORKER = 2
"""Number of windows requested ahead of time, per worker."""
_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer);"
    " from torchtune.data._prefetch_worker import main; main()"
)


class Prefetcher(Generic[ItemT]):
    """Reads windows in order; worker processes encode the next windows in advance.

    A window that no worker has started to encode is read in this process. Workers communicate through pipes: they
    share no CUDA context, do not import the program that started them, and exit with it. If a worker dies, the
    remaining windows are read in this process.

    Args:
        windows: The windows to read.
        workers: Number of worker processes; 0 reads everything in this process.
    """

    def __init__(self, windows: Windows[ItemT], workers: int) -> None:
        self._windows = windows
        self._n_workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._requests: dict[int, Future[Window[ItemT]]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._thread = threading.local()
        weakref.finalize(self, _end, self._processes)
        if workers:
            self._create_pool()

    def begin(self, index: int) -> None:
        """Start prefetching at window `index`; cancel all other requests."""
        for future in self._requests.values():
            future.cancel()
        self._requests = {}
        self._request(index)

    def read(self, index: int) -> Window[ItemT]:
        """Read a window, and prefetch the windows after it."""
        future = self._requests.pop(index, None)
        self._request(index + 1)
        if future is None or future.cancel():
            return self._windows.read(index)
        try:
            return future.result()
        except BrokenExecutor as error:
            _logger.warning("%s; from now on, rows are encoded in the main process", error.__cause__ or error)
            self.close()
            return self._windows.read(index)

    def close(self) -> None:
        """Stop the workers."""
        pool = self._pool
        self._pool = None
        self._requests = {}
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        _end(self._processes)
        if pool is not None:
            pool.shutdown(wait=True)
            _end(self._processes)  # a worker that was still starting

    def _create_pool(self) -> None:
        """Create the pool, whose threads each start a worker at their first request."""
        try:
            pickled_windows = pickle.dumps(self._windows)
        except Exception as error:  # pickling a dataset can raise anything
            _logger.warning(
                "rows are encoded in the main process: the dataset cannot be pickled for data workers (%s)",
                error,
            )
            return
        # One thread per worker; a thread's first request waits until its worker has started.
        self._pool = ThreadPoolExecutor(self._n_workers, "prefetch", self._start_worker, (pickled_windows,))

    def _request(self, first: int) -> None:
        """Request the windows starting at `first`."""
        if self._pool is None:
            return
        for index in range(first, first + _WINDOWS_PER_WORKER * self._n_workers):
            if index not in self._requests:
                self._requests[index] = self._pool.submit(self._fetch, index)

    def _start_worker(self, pickled_windows: bytes) -> None:
        """Start this thread's worker."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(  # noqa: S603 - our own program.
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # Ctrl-C reaches only the main process, which handles it
        )
        self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        self._thread.process = process
        with contextlib.suppress(OSError):  # a worker that has exited is detected at the next request
            process.stdin.write(pickle.dumps(sys.path))
            send(process.stdin, pickled_windows)
            receive(process.stdout)

    def _fetch(self, index: int) -> Window[ItemT]:
        """Get a window from this thread's worker."""
        process = self._thread.process
        try:
            send(process.stdin, pickle.dumps(index))
            answer = receive(process.stdout)
        except (OSError, ValueError):  # the pipe was closed in the meantime
            answer = None
        if answer is None:
            raise BrokenExecutor(f"a data worker exited with status {process.wait()}")
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
            with contextlib.suppress(OSError):  # flushing data that the worker never read
                if pipe is not None:
                    pipe.close()


def send(pipe: IO[bytes], message: bytes) -> None:
    """Write a message, preceded by its length."""
    pipe.write(struct.pack("<Q", len(message)) + message)
    pipe.flush()


def receive(pipe: IO[bytes]) -> bytes | None:
    """Read a message; return None if the other process has exited."""
    size = pipe.read(8)
    if len(size) < 8:
        return None
    message = pipe.read(struct.unpack("<Q", size)[0])
    return message if len(message) == struct.unpack("<Q", size)[0] else None
