"""`tune` sets up allocators: for a run on a CPU, it re-executes itself with settings that limit fragmentation."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torchtune import cli
from torchtune.internals import OUTCOMES, _allocators, _glibc

Execs = list[tuple[str, list[str]]]


@pytest.fixture
def execs(monkeypatch: pytest.MonkeyPatch) -> Execs:
    """Record the programs that would replace this process, and return the list."""
    programs: Execs = []
    monkeypatch.setattr(os, "execv", lambda file, args: programs.append((file, args)))
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # registers the variable, so that it is restored
    monkeypatch.delenv("GLIBC_TUNABLES")
    for name in (*_glibc.CACHES, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(_glibc, "_glibc_version", lambda: "2.36")
    monkeypatch.setitem(OUTCOMES, _glibc.HEAP.name, True)  # noqa: FBT003 -- the outcome of the probe
    monkeypatch.setattr(cli, "main", lambda args: 0)
    monkeypatch.setattr(_allocators, "_has_gpu_driver", lambda: False)
    return programs


def call_tune(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", *args])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "/bin/tune", *args])
    with pytest.raises(SystemExit) as exit_info:
        cli.run()
    assert exit_info.value.code == 0


@pytest.mark.parametrize("args", [["lora_finetune", "a=b"], ["run", "x"], ["--nproc_per_node", "2", "x"]])
def test_runs_re_execute_tune_with_the_same_arguments(
    args: list[str], execs: Execs, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_tune(monkeypatch, *args)
    assert execs == [(sys.executable, [sys.executable, "-X", "dev", "/bin/tune", *args])]
    assert os.environ["GLIBC_TUNABLES"] == _glibc.TUNABLES
    assert os.environ["LRU_CACHE_CAPACITY"] == "64"
    call_tune(monkeypatch, *args)
    assert len(execs) == 1


@pytest.mark.parametrize("args", [["ls"], ["validate", "x"], ["--help"], ["help"], ["__complete"], []])
def test_calls_without_a_run_do_not_re_execute_tune(
    args: list[str], execs: Execs, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_tune(monkeypatch, *args)
    assert not execs


def empty_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "")


def different_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("tune was re-executed"))
    monkeypatch.setattr(os, "confstr", lambda _: None, raising=False)
    monkeypatch.setattr(cli, "main", lambda args: 0)


@pytest.mark.parametrize("prepare", [empty_setting, different_c_library])
def test_tune_is_not_re_executed_with_a_user_setting_or_a_different_c_library(
    prepare: Callable[[pytest.MonkeyPatch], None], execs: Execs, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    call_tune(monkeypatch, "lora_finetune")
    assert not execs


@pytest.mark.parametrize(
    ("args", "has_driver", "may_use_gpu"),
    [
        ((), False, False),
        ((), True, True),
        (("device=cpu",), True, False),
        (("--override", "device=cpu"), True, False),
        (("--device=cpu",), True, False),
        (("--device", "cpu"), True, False),
        (("device=cpu", "device=auto"), True, True),
        (("device=auto",), False, False),
        (("device=cuda",), False, True),
        (("prompt=set device=cpu",), True, True),
    ],
)
def test_heap_settings_are_for_cpus_and_growing_segments_for_gpus(
    args: tuple[str, ...],
    has_driver: bool,
    may_use_gpu: bool,
    execs: Execs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_allocators, "_has_gpu_driver", lambda: has_driver)
    call_tune(monkeypatch, "lora_finetune", *args)
    expected = {"PYTORCH_ALLOC_CONF"} if may_use_gpu else {*_glibc.CACHES, "GLIBC_TUNABLES"}
    names = {*_glibc.CACHES, "GLIBC_TUNABLES", "PYTORCH_ALLOC_CONF"}
    assert (names & os.environ.keys(), len(execs)) == (expected, 0 if may_use_gpu else 1)


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_users_settings_of_the_gpu_allocator_are_kept(
    name: str, execs: Execs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:512")
    call_tune(monkeypatch, "lora_finetune", "device=cuda")
    assert os.environ[name] == "max_split_size_mb:512"
    assert len(os.environ.keys() & {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}) == 1
    assert not execs


@pytest.mark.parametrize(("visible", "expected"), [(None, True), ("0,1", True), ("", False), ("-1", False)])
def test_a_driver_is_found_by_its_program_unless_gpus_are_hidden(
    visible: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _allocators._has_gpu_driver() == expected


ALLOCATE_AND_FREE = """
import os
from torchtune.internals import limit_heap_growth

if {limits}:
    limit_heap_growth()
blocks = [b"x" * 2**23 for _ in range(20)]
del blocks
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
"""


@pytest.mark.skipif(not _glibc._glibc_version(), reason="only glibc has these settings")
def test_freed_memory_stays_in_the_heap_for_the_next_step() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    resident_mib = []
    for limits in (False, True):
        command = [sys.executable, "-c", ALLOCATE_AND_FREE.format(limits=limits)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert not result.stderr
        resident_mib.append(int(result.stdout))  # the program allocates and frees 160 MiB
    assert resident_mib[0] < 100 < resident_mib[1]
