"""Windows that processes encode ahead are those that are encoded when they are needed."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import Example, LeftOut, plain_example
from torchtune.data._ahead import _START, Ahead, receive, send
from torchtune.data._windows import Windows


class Rows:
    """Rows that are encoded, of which some give nothing and one may be wrong."""

    def __init__(self, n: int, wrong: int | None = None) -> None:
        self.n, self.wrong = n, wrong

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int, /) -> Example | LeftOut:
        if index == self.wrong:
            raise ValueError(f"rows.jsonl: line {index + 1}: not valid JSON")
        if index % 10 == 9:
            return LeftOut("have no answer", f"line {index + 1}")
        print("a library may print")
        return plain_example(ByteTokenizer(), f"{index}?", f"{index}!", train_on_input=False)


def until(true: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError


def is_busy(ahead: Ahead[Example]) -> bool:
    """Tell whether a process has answered, so that it is there."""
    return any(future.done() and not future.cancelled() for future in ahead._asked.values())


@pytest.mark.parametrize("workers", [2])
def test_windows_are_the_same(workers: int) -> None:
    windows = Windows(Rows(300), 3, 32)
    ahead = Ahead(windows, workers)
    assert [ahead.read(i) for i in range(4)] == [windows.read(i) for i in range(4)], "while they start"
    until(lambda: is_busy(ahead))
    assert [ahead.read(i) for i in range(4, 20)] == [windows.read(i) for i in range(4, 20)]
    assert [ahead.read(i) for i in (2, 50, 51)] == [windows.read(i) for i in (2, 50, 51)], "after a seek"
    ahead.close()
    assert ahead.read(7) == windows.read(7)


def test_a_process_that_dies_is_told_and_missed_by_nobody(caplog: pytest.LogCaptureFixture) -> None:
    windows = Windows(Rows(300), 3, 32)
    ahead = Ahead(windows, 2)
    ahead.read(0)
    until(lambda: is_busy(ahead))
    for process in ahead._processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert [ahead.read(i) for i in range(1, 12)] == [windows.read(i) for i in range(1, 12)]
    assert caplog.messages == [
        "a process that encodes rows ahead ended with status -9; from here on, rows are encoded when they are needed"
    ]


def test_a_row_that_is_wrong_is_an_error_where_it_is_needed() -> None:
    windows = Windows(Rows(300, wrong=200), None, 32)
    ahead = Ahead(windows, 1)
    ahead.read(0)
    until(lambda: is_busy(ahead))
    for i in range(1, 6):
        assert ahead.read(i) == windows.read(i)
    with pytest.raises(ValueError, match=r"rows.jsonl: line 201: not valid JSON"):
        ahead.read(6)
    ahead.close()


def test_a_dataset_that_cannot_be_sent_is_encoded_here(caplog: pytest.LogCaptureFixture) -> None:
    class Local(Rows):
        pass

    windows = Windows(Local(40), 3, 32)
    assert Ahead(windows, 1).read(0) == windows.read(0)
    assert "rows are encoded when they are needed: the dataset cannot be sent" in caplog.text


def test_processes_whose_reader_has_ended_end_without_a_word() -> None:
    """It ends while one of them starts, and between two answers of the other."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for n_read, process in zip((0, 2), processes, strict=True):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(sys.path))
        for message in (Windows(Rows(40), 3, 4), 0, 1, 2):
            send(process.stdin, pickle.dumps(message))
        process.stdin.close()
        for _ in range(n_read):  # the first says that the process has started
            receive(process.stdout)
        process.stdout.close()
    for process in processes:
        with process:
            assert process.stderr is not None
            text = process.stderr.read().decode().replace("a library may print\n", "")
        assert (text, process.returncode) == ("", 0)
