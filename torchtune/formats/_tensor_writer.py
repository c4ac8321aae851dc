"""Write safetensors files tensor by tensor, on one or several ranks.

The format: https://github.com/huggingface/safetensors#format
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import zip_longest
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from attrs import frozen
from torch import Tensor

from torchtune.files import SINGLE_RANK, Ranks, write_json
from torchtune.formats._tensor_files import FLOATS

SHARD_BYTES = 5 * 10**9
"""Maximum size of a weight file (bytes): the limit that transformers uses, since hubs limit the size of files."""

_DTYPE_NAMES = {dtype: name for name, dtype in FLOATS.items()}


@frozen(kw_only=True)
class TensorStream:
    """Tensors to write, each of which is computed when it is needed."""

    shapes: Mapping[str, Sequence[int]]
    """The shape of every tensor by name, in the order to write."""
    dtypes: Mapping[str, torch.dtype]
    """The floating-point dtype of every tensor by name."""
    parts: Callable[[str, int], Iterable[Tensor | None]]
    """Gather a tensor, given its name, on the rank of the given index; all ranks must call this in the same order.

    Yields the parts of the tensor along its first dimension, in order; None instead of each part on the other ranks.
    """

    def n_bytes(self, name: str) -> int:
        """Return the size of a tensor (bytes)."""
        return prod(self.shapes[name]) * self.dtypes[name].itemsize


class SafetensorsFile:
    """A safetensors file that is being written, with the metadata that transformers requires.

    Args:
        path: The file to write.
        tensors: Defines the dtypes and shapes.
        names: The tensors to write; `order` returns the order.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """

    def __init__(self, path: Path, tensors: TensorStream, names: Sequence[str]) -> None:
        self._path = path
        self._n_missing = sum(map(tensors.n_bytes, names))
        self._file = path.open("wb", buffering=0)
        try:
            self._write(memoryview(_header(tensors, names)))
        except OSError:
            self._file.close()
            raise

    def write(self, part: Tensor) -> None:
        """Write the next part of the contents.

        Raises:
            OSError: The file cannot be written.
        """
        data = part.detach().cpu().contiguous().view(-1).view(torch.uint8)
        self._write(data.numpy().data)
        self._n_missing -= data.numel()

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[self._file.write(data) :]  # at most 2 GiB per call on Linux: write(2)
        except OSError as error:
            raise OSError(f"cannot write {self._path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is None and self._n_missing:
            raise AssertionError(f"{self._path} lacks {self._n_missing} bytes of its tensors")


def _header(tensors: TensorStream, names: Iterable[str]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + tensors.n_bytes(name)
        dtype = _DTYPE_NAMES[tensors.dtypes[name]]
        header[name] = {"dtype": dtype, "shape": list(tensors.shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    return struct.pack("<Q", len(text)) + text


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into one file, with the metadata that transformers requires.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    stream = TensorStream(
        shapes={name: tensor.shape for name, tensor in tensors.items()},
        dtypes={name: tensor.dtype for name, tensor in tensors.items()},
        parts=lambda name, _: [tensors[name]],
    )
    names = _aligned(stream, tensors)
    with SafetensorsFile(path, stream, names) as file:
        for name in names:
            file.write(tensors[name])


def write_shards(
    folder: Path, tensors: TensorStream, shard_bytes: int = SHARD_BYTES, ranks: Ranks = SINGLE_RANK
) -> None:
    """Write weights into one file, or several files of at most `shard_bytes` with an index, named as in transformers.

    The files are distributed over the ranks. Each rank has one tensor in memory at a time, which a thread
    writes while tensors of other ranks are gathered.

    Args:
        folder: The folder to write to, the same on all ranks.
        tensors: The weights. A tensor larger than `shard_bytes` gets a separate file.
        shard_bytes: Maximum size of a file (bytes).
        ranks: The ranks that write, all of which must call this.

    Raises:
        OSError: A file cannot be written, for example because the disk is full.
    """
    files = _split(tensors, shard_bytes)
    if len(files) > 1 and ranks.rank == 0:
        _write_index(folder, files, tensors)
    names = list(files)
    for start in range(0, len(names), ranks.size):
        _write_files(
            folder, {name: files[name] for name in names[start : start + ranks.size]}, tensors, ranks
        )


def _write_files(
    folder: Path, files: Mapping[str, Sequence[str]], tensors: TensorStream, ranks: Ranks
) -> None:
    """Write at most one file per rank, with the names of its tensors."""
    file = dict(enumerate(files)).get(ranks.rank)
    opened = nullcontext() if file is None else SafetensorsFile(folder / file, tensors, files[file])
    pending: list[Future[None]] = []
    with opened as current, ThreadPoolExecutor(1) as thread:
        for rank, name in _alternating(files.values()):
            if rank == ranks.rank:
                _wait(pending)  # so that only one tensor of this rank is in memory
            for part in tensors.parts(name, rank):
                if current is not None and part is not None:
                    pending.append(thread.submit(current.write, part))
                del part
        _wait(pending)


def _alternating(files: Iterable[Sequence[str]]) -> Iterator[tuple[int, str]]:
    """Yield the first tensor of each file with the index of the file, then the second tensors, and so on."""
    for names in zip_longest(*files):
        yield from ((i, name) for i, name in enumerate(names) if name is not None)


def _wait(pending: list[Future[None]]) -> None:
    for future in pending:
        future.result()
    pending.clear()


def _split(tensors: TensorStream, shard_bytes: int) -> dict[str, list[str]]:
    """Return the names of the tensors in each file."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in tensors.shapes:
        n_bytes = tensors.n_bytes(name)
        if shards[-1] and size + n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n_bytes
    shards = [_aligned(tensors, names) for names in shards]
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": names for i, names in enumerate(shards, start=1)}


def _aligned(tensors: TensorStream, names: Iterable[str]) -> list[str]:
    """Sort tensors so that each starts at a multiple of its item size: wide dtypes first."""
    return sorted(names, key=lambda name: -tensors.dtypes[name].itemsize)


def _write_index(folder: Path, files: Mapping[str, Sequence[str]], tensors: TensorStream) -> None:
    weight_map = {name: file for file, names in files.items() for name in names}
    write_json(
        folder / "model.safetensors.index.json",
        {
            "metadata": {"total_size": sum(map(tensors.n_bytes, weight_map))},
            "weight_map": dict(sorted(weight_map.items())),
        },
    )
