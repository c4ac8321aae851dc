"""Compressed files, decompressed once into a temporary file in which any row can be read directly."""

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
import weakref
import zlib
from pathlib import Path
from typing import IO, Any

_BLOCK = 2**22
"""Number of bytes that are decompressed at a time."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
"""Compression formats by file name suffix."""


def ending(path: Path) -> str:
    """Return a file name's suffix in lower case, ignoring a compression suffix: `.csv` for `a.CSV.gz`."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSIONS else suffix


class TemporaryFile:
    """An empty file in the folder for temporary files, removed with this object, at the latest when Python exits."""

    def __init__(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix="torchtune-rows-")
        os.close(descriptor)
        self.path = Path(name)
        weakref.finalize(self, _remove, self.path, os.getpid())


def decompress(path: Path) -> TemporaryFile:
    """Decompress a file.

    Raises:
        ValueError: The file is damaged or truncated, or is not compressed in the format that its name indicates.
        OSError: There is not enough disk space.
    """
    kind = COMPRESSIONS[path.suffix.lower()]
    copy = TemporaryFile()
    try:
        with _open(path, kind) as source, copy.path.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's error, not the decoder's
            raise OSError(
                f"{path} cannot be decompressed into {copy.path.parent}: {error.strerror}; to use a different folder"
                " for temporary files, set the environment variable TMPDIR"
            ) from error
        raise ValueError(
            f"{path} cannot be decompressed: it is damaged, truncated or not a {kind} file ({error}); copy or"
            " download it again"
        ) from error
    return copy


def _open(path: Path, kind: str) -> IO[bytes] | Any:  # pyarrow ships no types
    if kind == "zstd":
        import pyarrow as pa

        return pa.input_stream(str(path), compression="zstd")
    modules: dict[str, Any] = {"gzip": gzip, "bz2": bz2, "xz": lzma}
    return modules[kind].open(path)


def _remove(path: Path, process: int) -> None:
    """Remove a temporary file, unless this process is a fork of the one that created it."""
    if os.getpid() == process:
        path.unlink(missing_ok=True)
