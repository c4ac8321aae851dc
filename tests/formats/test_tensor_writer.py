"""Safetensors files that are names_of_ranks tensor by tensor."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from attrs import define, field
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from torchtune.files import atomic_folder
from torchtune.formats._tensor_files import folder_tensors
from torchtune.formats._tensor_writer import TensorStream, write_safetensors, write_shards

TENSORS = {
    "odd": torch.arange(3, dtype=torch.bfloat16),
    "wide": torch.arange(5, dtype=torch.float64),
    "scalar": torch.tensor(7.0),
    "empty": torch.zeros(0, 4),
    "half": torch.ones(3, 3, dtype=torch.float16),
    "transposed": torch.arange(6.0).view(2, 3).T,
}


def stream(tensors: dict[str, Tensor], n_parts: int = 1, rank: int = 0) -> TensorStream:
    def parts(name: str, owner: int) -> Iterator[Tensor | None]:
        for part in tensors[name].chunk(n_parts) if tensors[name].ndim else [tensors[name]]:
            yield part if owner == rank else None

    return TensorStream(
        shapes={name: list(tensor.shape) for name, tensor in tensors.items()},
        dtypes={name: tensor.dtype for name, tensor in tensors.items()},
        parts=parts,
    )


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def test_the_safetensors_library_reads_the_tensors_and_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, TENSORS)
    assert_same(load_file(path), TENSORS)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_every_tensor_starts_at_a_multiple_of_its_item_size(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, TENSORS)
    n_header = int.from_bytes(path.read_bytes()[:8], "little")
    assert n_header % 8 == 0
    with safe_open(path, "pt") as file:
        for name in TENSORS:
            tensor = file.get_tensor(name)
            assert tensor.data_ptr() % tensor.dtype.itemsize == 0, name


@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_parts_are_joined_along_the_first_dimension(tmp_path: Path, n_parts: int) -> None:
    write_shards(tmp_path, stream(TENSORS, n_parts))
    assert_same(load_file(tmp_path / "model.safetensors"), TENSORS)


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    tensors = stream(TENSORS)
    incomplete = TensorStream(shapes=tensors.shapes, dtypes=tensors.dtypes, parts=lambda name, _: ())
    with pytest.raises(AssertionError, match=r"model\.safetensors lacks \d+ bytes"):
        write_shards(tmp_path, incomplete)


@define
class ThreadRank:
    """A rank that is a thread of this process."""

    rank: int
    size: int
    shared: Barrier = field(repr=False)

    def barrier(self) -> None:
        self.shared.wait(timeout=60)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_ranks_distribute_the_files(tmp_path: Path, size: int) -> None:
    """The last round has fewer files than ranks, and the files have different numbers of tensors."""
    tensors = {f"w{i}": torch.full((i + 1, 4), float(i)) for i in range(11)}
    shared, names_of_ranks = Barrier(size), dict[int, set[str]]()

    def run(rank: int) -> None:
        owned = names_of_ranks[rank] = set()
        inner = stream(tensors, 2, rank)

        def parts(name: str, owner: int) -> Iterator[Tensor | None]:
            if owner == rank:
                owned.add(name)
            yield from inner.parts(name, owner)

        ranks = ThreadRank(rank, size, shared)
        with atomic_folder(tmp_path / "out", ranks=ranks) as folder:
            counted = TensorStream(shapes=inner.shapes, dtypes=inner.dtypes, parts=parts)
            write_shards(folder, counted, shard_bytes=200, ranks=ranks)

    threads = [Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    source = folder_tensors(tmp_path / "out")
    assert_same({name: source.read(name) for name in source.shapes}, tensors)
    assert sorted(name for owned in names_of_ranks.values() for name in owned) == sorted(tensors)
    n_files = len(list((tmp_path / "out").glob("*.safetensors")))
    assert n_files > 4
    assert sum(map(bool, names_of_ranks.values())) == min(size, n_files)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which only Linux has")
def test_a_full_disk_is_reported_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*model\.safetensors: .*No space left on device"):
        write_shards(tmp_path, stream(TENSORS))
