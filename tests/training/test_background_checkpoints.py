"""Checkpoints: checksums computed while writing, a GPU's thread and copies, and the time allowed after SIGTERM."""

import builtins
import io
import json
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import nn
from torch.optim import AdamW

from tests.training.tiny import SINGLE_RANK
from torchtune.distributed import StopRequests, checkpoint
from torchtune.distributed._checksums import ChecksumFile
from torchtune.distributed._signals import MIN_GRACE_PERIOD
from torchtune.training import State


def small_state(folder: Path, device: str = "cpu") -> State:
    """Return the state of a run of a linear layer, whose tensors are on the CPU for any device of the world."""
    model = nn.Linear(3, 2)
    optimizer = AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    state = State(str(folder), model, optimizer, {}, world=evolve(SINGLE_RANK, device=torch.device(device)))
    state.step = 1
    return state


def test_checksums_in_the_manifest_match_the_files(tmp_path: Path) -> None:
    small_state(tmp_path).save()
    folder = tmp_path / "checkpoints" / "step_1"
    files = json.loads((folder / checkpoint.MANIFEST).read_text())["files"]
    assert files.keys() == {path.name for path in folder.iterdir()} - {checkpoint.MANIFEST}
    contents = {name: (folder / name).read_bytes() for name in files}
    assert files == {name: [len(content), zlib.crc32(content)] for name, content in contents.items()}


def test_files_are_not_read_again_for_their_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = io.open

    def record(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "checkpoints" in str(file) and "r" in mode:
            read.append(str(file))
        return original(file, mode, *args, **options)

    monkeypatch.setattr(io, "open", record)
    monkeypatch.setattr(builtins, "open", record)
    small_state(tmp_path).save()
    assert read == []


def test_a_checksum_file_counts_buffers_of_any_type(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as raw:
        file = ChecksumFile(raw)
        for data in (b"ab", memoryview(b"cd"), bytearray(b"ef"), torch.arange(3, dtype=torch.int32).numpy()):
            file.write(data)
        assert file.tell() == 6 + 12
    content = (tmp_path / "file").read_bytes()
    assert [file.size, file.crc] == [len(content), zlib.crc32(content)]


def test_a_checkpoint_thread_uses_the_gpu_of_its_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's current device is thread-local and is GPU 0 in a new thread."""
    calls: list[tuple[str, str]] = []
    waits: list[str] = []

    class Stream:
        def synchronize(self) -> None:
            waits.append(threading.current_thread().name)

    def set_device(device: torch.device) -> None:
        calls.append((threading.current_thread().name, str(device)))

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: torch.zeros(16, dtype=torch.uint8))
    state = small_state(tmp_path, "cuda:1")
    state.save(wait=False)
    state.wait()
    assert calls == [("checkpoint", "cuda:1")]
    assert waits == ["MainThread"]  # the copies are complete before the next step changes the tensors


@pytest.mark.parametrize(
    ("save_seconds", "grace_period"), [(None, MIN_GRACE_PERIOD), (1.0, MIN_GRACE_PERIOD), (200.0, 400.0)]
)
def test_a_last_checkpoint_may_take_twice_as_long_as_the_previous_one(
    save_seconds: float | None, grace_period: float
) -> None:
    assert StopRequests(SINGLE_RANK, save_seconds=lambda: save_seconds)._grace_period() == grace_period


@pytest.mark.parametrize("wait", [True, False])
def test_the_duration_of_a_checkpoint_is_measured(tmp_path: Path, *, wait: bool) -> None:
    states = [small_state(tmp_path) for _ in range(2)]
    states[1].save(wait=wait)
    states[1].wait()
    before, after = (state.save_seconds for state in states)
    assert before is None
    assert after is not None
    assert after > 0
