"""A worker process that encodes windows for a `Prefetcher` until the main process exits."""

import os
import pickle
import sys
from typing import IO

from torchtune.data._prefetch import receive, send


def main() -> None:
    """Read requests from standard input and write replies to the original standard output."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # anything a library prints goes to standard error
    try:
        _serve(sys.stdin.buffer, replies)
    except BrokenPipeError:  # the main process has exited, perhaps while this one was still importing
        # Closing the stream flushes its buffer, which must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), replies.fileno())


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Receive the `Windows` object, then send each requested window."""
    pickled_windows = receive(requests)
    if pickled_windows is None:
        return
    windows = pickle.loads(pickled_windows)  # noqa: S301 - the process that started this one wrote it.
    send(replies, b"")
    for request in iter(lambda: receive(requests), None):
        try:
            reply = pickle.dumps(windows.read(pickle.loads(request)))  # noqa: S301 - as above.
        except Exception as error:  # raised again in the main process
            reply = _pickled(error)
        send(replies, reply)


def _pickled(error: Exception) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:  # pickling an error with extra attributes can raise anything
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
