"""Checkpoints are read tensor by tensor; copies release the file's memory, and references stay backed by the file."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from torchtune.formats._tensor_files import file_tensors, folder_tensors
from torchtune.modules import copy_full

MB = 2**20


def resident_bytes(path: Path) -> int:
    """Return the number of bytes of a mapped file that are in memory, read from Linux's /proc."""
    maps = Path("/proc/self/smaps").read_text()
    sizes = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", maps)
    return sum(map(int, sizes)) * 1024


def tensors() -> dict[str, Tensor]:
    """Return 32 tensors, 64 MB in total."""
    return {f"t{i:02}": torch.full((MB,), float(i), dtype=torch.bfloat16) for i in range(32)}


@pytest.fixture(params=["model.safetensors", "pytorch_model.bin"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    if path.suffix == ".bin":
        torch.save(tensors(), path)
    else:
        save_file(tensors(), path)
    return path


@pytest.mark.quick_cases(1)
def test_copied_tensors_do_not_stay_in_memory(file: Path) -> None:
    files = file_tensors(file)
    assert resident_bytes(file) < 2 * MB, "reading shapes must not load tensors"
    copies, peak = {}, 0
    for name in files.shapes:
        copies[name] = files.read(name).float()
        peak = max(peak, resident_bytes(file))
    assert 2 * MB <= peak <= 24 * MB
    assert all(torch.equal(copies[name], tensor.float()) for name, tensor in tensors().items())


def test_referenced_tensors_stay_backed_by_the_file(file: Path) -> None:
    files = file_tensors(file)
    references = {name: files.read(name) for name in files.shapes}
    del files
    assert all(torch.equal(references[name], tensor) for name, tensor in tensors().items())
    assert resident_bytes(file) >= 60 * MB


def test_slice_of_a_tensor_reads_only_that_slice(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"whole": torch.arange(16 * MB, dtype=torch.float32)}, path)
    part = torch.empty(MB)
    copy_full(part, file_tensors(path).read("whole")[3 * MB : 4 * MB])
    assert torch.equal(part, torch.arange(3 * MB, 4 * MB, dtype=torch.float32))
    assert resident_bytes(path) < 16 * MB


def test_sharded_files_are_read_as_one_source(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "1.safetensors")
    torch.save({"b": torch.ones(4)}, tmp_path / "2.pth")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.pth"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    files = folder_tensors(tmp_path)
    assert files.shapes == {"a": [2, 3], "b": [4]}
    renamed = files.renamed({"c": "b"})
    assert renamed.shapes == {"c": [4]}
    assert renamed.dtypes == {"c": torch.float32}
    assert torch.equal(renamed.read("c"), torch.ones(4))


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert folder_tensors(tmp_path).read("a") == 1
