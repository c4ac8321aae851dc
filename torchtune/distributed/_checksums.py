"""Compute checksums of files while they are written, so that large checkpoints are not read again."""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, cast

from torch.distributed.checkpoint.filesystem import FileSystem


class ChecksumFile(io.RawIOBase):
    """A file that is written from its beginning to its end, and the size and CRC-32 of its contents.

    CRC-32 detects damage, not tampering.

    Args:
        file: The file, opened for writing in binary mode.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        """Bytes written."""
        self.crc = 0
        """CRC-32 of the bytes written."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write a buffer and return its number of bytes."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self.crc = zlib.crc32(view, self.crc)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.size

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()

    def flush(self) -> None:
        """Write buffered data to the file."""
        if not self._file.closed:
            self._file.flush()


class ChecksumFileSystem(FileSystem):
    """The file system of torch.distributed.checkpoint, with checksums of all files that are written."""

    def __init__(self) -> None:
        super().__init__()
        self.fingerprints: dict[str, list[int]] = {}
        """The size (bytes) and CRC-32 of each written file, by name."""

    @contextmanager
    def create_stream(self, path: str | PathLike[str], mode: str) -> Iterator[io.IOBase]:
        """Open a file for writing."""
        with Path(path).open(mode) as file:
            stream = ChecksumFile(cast("BinaryIO", file))
            yield stream
            self.fingerprints[Path(path).name] = [stream.size, stream.crc]

    def rename(self, path: str | PathLike[str], new_path: str | PathLike[str]) -> None:
        """Rename a file and its entry."""
        super().rename(path, new_path)
        self.fingerprints[Path(new_path).name] = self.fingerprints.pop(Path(path).name)
