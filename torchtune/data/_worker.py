"""A process that encodes windows for another (`Ahead`), until that one ends."""

import os
import pickle
import sys
from typing import IO

from torchtune.data._ahead import receive, send


def main() -> None:
    """Answer what is asked through standard input, through what was standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not belong among the answers
    try:
        _answer(sys.stdin.buffer, answers)
    except BrokenPipeError:  # the reader has ended, perhaps while this process was still importing
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), answers.fileno()
        )  # closing it writes the rest of its buffer


def _answer(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Read the windows, then answer with each that is asked for."""
    sent = receive(questions)
    if sent is None:
        return
    windows = pickle.loads(sent)  # noqa: S301 - the process that started this one wrote it.
    send(answers, b"")
    for question in iter(lambda: receive(questions), None):
        try:
            answer = pickle.dumps(windows.read(pickle.loads(question)))  # noqa: S301 - as above.
        except Exception as error:  # a row's, for the other side to raise
            answer = _pickled(error)
        send(answers, answer)


def _pickled(error: Exception) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:  # of whatever kind an error with more than text in it causes
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
