"""`tune` starts itself once more for a run, with a heap that does not fall to pieces."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from torchtune import cli
from torchtune.internals import OUTCOMES, _glibc

Execs = list[tuple[str, list[str]]]


@pytest.fixture
def execs(monkeypatch: pytest.MonkeyPatch) -> Execs:
    """Return what was started in this process's place."""
    found: Execs = []
    monkeypatch.setattr(os, "execv", lambda file, words: found.append((file, words)))
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # so that it is put back
    monkeypatch.delenv("GLIBC_TUNABLES")
    for name in _glibc.CACHES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(_glibc, "_glibc_version", lambda: "2.36")
    monkeypatch.setitem(OUTCOMES, _glibc.HEAP.name, True)  # noqa: FBT003 -- its value
    monkeypatch.setattr(cli, "main", lambda words: 0)
    return found


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", *words])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "/bin/tune", *words])
    with pytest.raises(SystemExit) as ended:
        cli.run()
    assert ended.value.code == 0


@pytest.mark.parametrize("words", [["lora_finetune", "a=b"], ["run", "x"], ["--nproc_per_node", "2", "x"]])
def test_runs_start_once_more_with_the_same_words(
    words: list[str], execs: Execs, monkeypatch: pytest.MonkeyPatch
) -> None:
    called(monkeypatch, *words)
    assert execs == [(sys.executable, [sys.executable, "-X", "dev", "/bin/tune", *words])]
    assert os.environ["GLIBC_TUNABLES"] == _glibc.TUNABLES
    assert os.environ["LRU_CACHE_CAPACITY"] == "64"
    called(monkeypatch, *words)
    assert len(execs) == 1


@pytest.mark.parametrize("words", [["ls"], ["validate", "x"], ["--help"], ["help"], ["__complete"], []])
def test_what_runs_nothing_does_not(words: list[str], execs: Execs, monkeypatch: pytest.MonkeyPatch) -> None:
    called(monkeypatch, *words)
    assert not execs


def empty_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "")


def another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it was started again"))
    monkeypatch.setattr(os, "confstr", lambda _: None, raising=False)
    monkeypatch.setattr(cli, "main", lambda words: 0)


@pytest.mark.parametrize("how", [empty_setting, another_library])
def test_a_setting_and_another_c_library_are_left_alone(
    how: Callable[[pytest.MonkeyPatch], None], execs: Execs, monkeypatch: pytest.MonkeyPatch
) -> None:
    how(monkeypatch)
    called(monkeypatch, "lora_finetune")
    assert not execs


KEEP = """
import os
from torchtune.internals import steady_heap

if {starts}:
    steady_heap()
blocks = [b"x" * 2**23 for _ in range(20)]
del blocks
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
"""


@pytest.mark.skipif(not _glibc._glibc_version(), reason="only glibc has these settings")
def test_what_is_given_back_stays_for_the_next_step() -> None:
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    held = []
    for starts in (False, True):
        read = [sys.executable, "-c", KEEP.format(starts=starts)]
        done = subprocess.run(read, env=clean, capture_output=True, text=True, check=True)
        assert not done.stderr
        held.append(int(done.stdout))  # MiB, of 160 that were used
    assert held[0] < 100 < held[1]
