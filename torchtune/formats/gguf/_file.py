"""What a GGUF file holds.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package
knows the tensor types and undoes their quantisation. Its reader is not used: it takes 6 s for a
vocabulary of 49,152 where this takes 0.1 s, and on a damaged file it goes on beyond the end.
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

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The metadata types that are numbers, as letters of `struct`."""
_STRING, _ARRAY = 8, 9


@frozen
class GGUFTensor:
    """Where one tensor stands in a file, and how it is stored."""

    shape: tuple[int, ...]
    """Outermost first, as in torch; the file has the reverse."""
    kind: int
    """The number of its GGMLQuantizationType."""
    start: int
    """Its first byte, counted from where all data begins."""


@frozen
class GGUFFile:
    """A GGUF file's metadata, and its tensors on demand."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    _data: npt.NDArray[np.uint8]

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Read one tensor, as float32.

        Raises:
            ValueError: it reaches beyond the end of the file, is of an unknown type, or is not finite.
        """
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        tensor = self.tensors[name]
        try:
            kind = GGMLQuantizationType(tensor.kind)
            block, block_bytes = GGML_QUANT_SIZES[kind]  # Numbers that are stored together, in bytes.
            shape = (*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
            n_bytes = math.prod(shape)
            data = self._data[tensor.start : tensor.start + n_bytes]
            if len(data) < n_bytes:
                raise ValueError(f"{n_bytes - len(data)} of its {n_bytes} bytes are missing")
            with np.errstate(all="ignore"):  # What damage makes infinite is reported below.
                array = np.array(dequantize(data.reshape(shape), kind), dtype=np.float32).reshape(
                    tensor.shape
                )
        except (ValueError, NotImplementedError) as error:
            raise ValueError(_damaged(self.path, f"tensor {name}: {error}")) from error
        if not np.isfinite(array).all():
            raise ValueError(_damaged(self.path, f"tensor {name} is not finite"))
        return array


def is_gguf(path: Path) -> bool:
    """Tell whether a file begins as GGUF files do."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def read_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """Read a GGUF file of version 2 or 3, little-endian; its tensors' data when asked for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, damaged, or cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not is_gguf(path):
        raise ValueError(f"{path} is not a GGUF file")
    with path.open("rb") as file:
        cursor = _Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), at=4)
    try:
        metadata, tensors = _read_header(cursor)
        alignment = metadata.get("general.alignment", 32)
        start = -(-cursor.at // alignment) * alignment if tensors else len(cursor.data)
        data = np.frombuffer(cursor.data, np.uint8, offset=start)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(_damaged(path, str(error))) from error
    return GGUFFile(path, metadata, tensors, data)


@define
class _Cursor:
    """A place in a file that moves on as things are read."""

    data: mmap.mmap
    at: int

    def take(self, n: int) -> bytes:
        """Read n bytes."""
        if n > len(self.data) - self.at:
            raise ValueError(f"byte {self.at} speaks of {n} more, the file has {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]

    def numbers(self, letter: str, n: int) -> list[Any]:
        """Read n numbers of one type."""
        return list(struct.unpack(f"<{n}{letter}", self.take(n * struct.calcsize(f"<{letter}"))))

    def number(self, letter: str) -> Any:
        """Read one number."""
        return self.numbers(letter, 1)[0]

    def string(self) -> str:
        """Read a text with its length before it."""
        return self.take(self.number("Q")).decode()

    def value(self) -> Any:
        """Read a metadata value with its type before it."""
        kind = self.number("I")
        if kind != _ARRAY:
            return self.values(kind, 1)[0]
        return self.values(self.number("I"), self.number("Q"))

    def values(self, kind: int, n: int) -> list[Any]:
        """Read n metadata values of one type."""
        if kind == _STRING:
            return [self.string() for _ in range(n)]
        if kind in _NUMBERS:
            return self.numbers(_NUMBERS[kind], n)
        raise ValueError(f"byte {self.at} has the unknown type {kind}")


def _read_header(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """Read everything that stands before the tensors' data."""
    version = cursor.number("I")
    if version not in {2, 3}:
        raise ValueError(f"its version is {version}, only 2 and 3 are supported")
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
            raise ValueError(f"tensor {name} has {len(shape)} axes")
        tensors[name] = GGUFTensor(tuple(reversed(shape)), cursor.number("I"), cursor.number("Q"))
    return metadata, tensors


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged or cut short ({why}); fetch it again"
