"""Prefetched windows are compared with windows that the main process encodes."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.data import Example, SkippedRow, plain_example
from torchtune.data._prefetch import _START, Prefetcher, receive, send
from torchtune.data._windows import Windows


class Rows:
    """A dataset that skips some rows and may have an invalid one."""

    def __init__(self, n: int, invalid: int | None = None) -> None:
        self.n, self.invalid = n, invalid

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int, /) -> Example | SkippedRow:
        if index == self.invalid:
            raise ValueError(f"rows.jsonl: line {index + 1}: not valid JSON")
        if index % 10 == 9:
            return SkippedRow("have no answer", f"line {index + 1}")
        print("a library may print")
        return plain_example(ByteTokenizer(), f"{index}?", f"{index}!", train_on_input=False)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another process to make a condition true."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError


def has_started(prefetcher: Prefetcher[Example]) -> bool:
    """Return whether a worker has replied to a request."""
    return any(future.done() and not future.cancelled() for future in prefetcher._requests.values())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2])
def test_prefetched_windows_match_windows_read_directly(workers: int) -> None:
    windows = Windows(Rows(300), 3, 32)
    prefetcher = Prefetcher(windows, workers)
    assert [prefetcher.read(i) for i in range(4)] == [windows.read(i) for i in range(4)], (
        "while the workers start"
    )
    wait_until(lambda: has_started(prefetcher))
    assert [prefetcher.read(i) for i in range(4, 20)] == [windows.read(i) for i in range(4, 20)]
    assert [prefetcher.read(i) for i in (2, 50, 51)] == [windows.read(i) for i in (2, 50, 51)], "after a seek"
    prefetcher.close()
    assert prefetcher.read(7) == windows.read(7)


@pytest.mark.slow
def test_the_main_process_reads_the_windows_after_workers_die(caplog: pytest.LogCaptureFixture) -> None:
    windows = Windows(Rows(300), 3, 32)
    prefetcher = Prefetcher(windows, 2)
    prefetcher.read(0)
    wait_until(lambda: has_started(prefetcher))
    for process in prefetcher._processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert [prefetcher.read(i) for i in range(1, 12)] == [windows.read(i) for i in range(1, 12)]
    assert caplog.messages == [
        "a data worker exited with status -9; from now on, rows are encoded in the main process"
    ]


@pytest.mark.slow
def test_an_invalid_row_raises_when_its_window_is_read() -> None:
    windows = Windows(Rows(300, invalid=200), None, 32)
    prefetcher = Prefetcher(windows, 1)
    prefetcher.read(0)
    wait_until(lambda: has_started(prefetcher))
    for i in range(1, 6):
        assert prefetcher.read(i) == windows.read(i)
    with pytest.raises(ValueError, match=r"rows.jsonl: line 201: not valid JSON"):
        prefetcher.read(6)
    prefetcher.close()


def test_a_dataset_that_cannot_be_pickled_is_encoded_in_the_main_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Local(Rows):
        pass

    windows = Windows(Local(40), 3, 32)
    assert Prefetcher(windows, 1).read(0) == windows.read(0)
    assert "rows are encoded in the main process: the dataset cannot be pickled" in caplog.text


@pytest.mark.slow
def test_workers_exit_silently_when_the_main_process_has_exited() -> None:
    """Check a worker that is still starting, and a worker that has sent one of its replies."""
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
        for _ in range(n_read):  # the first reply reports that the worker has started
            receive(process.stdout)
        process.stdout.close()
    for process in processes:
        with process:
            assert process.stderr is not None
            text = process.stderr.read().decode().replace("a library may print\n", "")
        assert (text, process.returncode) == ("", 0)
