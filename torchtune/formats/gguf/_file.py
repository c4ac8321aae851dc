"""Read GGUF files.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package defines the
tensor types and dequantizes them. Its reader is not used: it takes 6 s for a vocabulary of 49,152 tokens (this reader:
0.1 s), and it reads beyond the end of a damaged file.
"""

import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import define, frozen

_NUMBER_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Numeric metadata types, mapped to format characters of `struct`."""
_STRING, _ARRAY = 8, 9


@frozen
class GGUFTensor:
    """The location and the storage type of one tensor in a file."""

    shape: tuple[int, ...]
    """Outermost dimension first, as in torch; the file stores the reverse order."""
    kind: int
    """The value of its GGMLQuantizationType."""
    start: int
    """Offset of its first byte from the start of all tensor data."""


@frozen
class GGUFFile:
    """The metadata of a GGUF file; its tensors are read on demand."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    _data: npt.NDArray[np.uint8]

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Read one tensor, as float32.

        Raises:
            ValueError: The tensor extends beyond the end of the file, has an unknown type, or contains NaN or infinite
                values.
        """
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        tensor = self.tensors[name]
        try:
            kind = GGMLQuantizationType(tensor.kind)
            block, block_bytes = GGML_QUANT_SIZES[
                kind
            ]  # Values per quantization block, and its size in bytes.
            shape = (*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
            n_bytes = math.prod(shape)
            data = self._data[tensor.start : tensor.start + n_bytes]
            if len(data) < n_bytes:
                raise ValueError(f"{n_bytes - len(data)} of its {n_bytes} bytes are missing")
            with np.errstate(all="ignore"):  # NaN and infinite values are reported below.
                array = np.array(dequantize(data.reshape(shape), kind), dtype=np.float32).reshape(
                    tensor.shape
                )
        except (ValueError, NotImplementedError) as error:
            raise ValueError(_damaged(self.path, f"tensor {name}: {error}")) from error
        if not np.isfinite(array).all():
            raise ValueError(_damaged(self.path, f"tensor {name} has NaN or infinite values"))
        return array


def is_gguf(path: Path) -> bool:
    """Return whether a file begins with the magic bytes of GGUF."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def read_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Open a little-endian GGUF file of version 2 or 3; tensor data is read on demand.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a GGUF file, is damaged, or is truncated.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"file {path} does not exist")
    if not is_gguf(path):
        raise ValueError(f"{path} is not a GGUF file")
    with path.open("rb") as file:
        cursor = _Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), offset=4)
    try:
        metadata, tensors = _read_header(cursor)
        alignment = metadata.get("general.alignment", 32)
        start = -(-cursor.offset // alignment) * alignment if tensors else len(cursor.data)
        data = np.frombuffer(cursor.data, np.uint8, offset=start)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(_damaged(path, str(error))) from error
    return GGUFFile(path, metadata, tensors, data)


@define
class _Cursor:
    """A read position in a file, which advances with every read."""

    data: mmap.mmap
    offset: int

    def take(self, n: int) -> bytes:
        """Read n bytes."""
        if n > len(self.data) - self.offset:
            raise ValueError(
                f"expected {n} bytes after byte {self.offset}, but the file has only {len(self.data)}"
            )
        self.offset += n
        return self.data[self.offset - n : self.offset]

    def numbers(self, letter: str, n: int) -> list[Any]:
        """Read n numbers of one type."""
        return list(struct.unpack(f"<{n}{letter}", self.take(n * struct.calcsize(f"<{letter}"))))

    def number(self, letter: str) -> Any:
        """Read one number."""
        return self.numbers(letter, 1)[0]

    def string(self) -> str:
        """Read a string, which is preceded by its length."""
        return self.take(self.number("Q")).decode()

    def value(self) -> Any:
        """Read a metadata value, which is preceded by its type."""
        kind = self.number("I")
        if kind != _ARRAY:
            return self.values(kind, 1)[0]
        return self.values(self.number("I"), self.number("Q"))

    def values(self, kind: int, n: int) -> list[Any]:
        """Read n metadata values of one type."""
        if kind == _STRING:
            return [self.string() for _ in range(n)]
        if kind in _NUMBER_FORMATS:
            return self.numbers(_NUMBER_FORMATS[kind], n)
        raise ValueError(f"unknown type {kind} before byte {self.offset}")


def _read_header(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """Read the metadata and the tensor descriptions, which precede the tensor data."""
    version = cursor.number("I")
    if version not in {2, 3}:
        raise ValueError(f"version {version} is not supported; expected 2 or 3")
    n_tensors, n_values = cursor.numbers("Q", 2)
    metadata = {}
    for _ in range(n_values):
        key = cursor.string()
        metadata[key] = cursor.value()
    tensors = {}
    for _ in range(n_tensors):
        name = cursor.string()
        shape = cursor.numbers("Q", cursor.number("I"))
        if not 1 <= len(shape) <= 4:
            raise ValueError(f"tensor {name} has {len(shape)} dimensions; expected 1 to 4")
        tensors[name] = GGUFTensor(tuple(reversed(shape)), cursor.number("I"), cursor.number("Q"))
    return metadata, tensors


def _damaged(path: Path, problem: str) -> str:
    return f"{path} is damaged or truncated ({problem}); download it again"
