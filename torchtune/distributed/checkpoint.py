"""Write and read checkpoint folders, which are complete once renamed, and read only if their checksums match.

    checkpoints/step_40/
        __<rank>_0.distcp, .metadata   tensors, by torch.distributed.checkpoint
        state.pt                       other values that are equal on all ranks
        rank_<rank>.pt                 values of one rank, such as its random state
        manifest.json                  size and CRC-32 of each file; written last

torch.distributed.checkpoint is used even on a single rank, so that a checkpoint can be read on any number of ranks and
no rank gathers a sharded model. Building an optimizer imports torch._dynamo anyway; the additional import takes 0.1 s
(`python -X importtime -c "import torch._dynamo, torch.distributed.checkpoint"`).
"""

import errno
import itertools
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from torchtune.distributed._world import World

FORMAT = 3
MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 22  # size of the blocks read for a checksum


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is missing or has changed since it was written."""


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint in a folder, or None."""
    saved_steps = steps(folder)
    return folder / f"step_{saved_steps[-1]}" if saved_steps else None


def steps(checkpoints: Path) -> list[int]:
    """List the steps of the complete checkpoints in a folder, in ascending order."""
    numbers = (path.name.removeprefix("step_") for path in checkpoints.glob("step_*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def write(
    folder: Path,
    world: World,
    *,
    tensors: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    per_rank: Mapping[str, Any],
) -> None:
    """Write a checkpoint; all ranks must call this and share a file system.

    If a process is killed while writing, no folder with the name of `folder` exists.

    Args:
        folder: The folder to write; it must not exist.
        world: The ranks of this run.
        tensors: Tensors by name, equal on all ranks or sharded across them.
        shared: Plain Python values that are equal on all ranks.
        per_rank: Plain Python values and small tensors of this rank.

    Raises:
        OSError: The disk is full or not writable.
    """
    part = folder.with_name(folder.name + ".part")
    if world.is_main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    world.barrier()
    with _writing(part):
        fingerprints = _save_tensors(tensors, part, world)
        if world.is_main:
            fingerprints["state.pt"] = _save_values(shared, part / "state.pt")
        name = f"rank_{world.rank}.pt"
        fingerprints[name] = _save_values(per_rank, part / name)
    fingerprints_of_ranks = world.gather(fingerprints)
    if world.is_main:
        files = {name: values for of_rank in fingerprints_of_ranks for name, values in of_rank.items()}
        manifest = {"format": FORMAT, "ranks": world.size, "files": files}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _sync(part / MANIFEST)
        _sync(part)
        part.rename(folder)
        _sync(folder.parent)
    world.barrier()


def remove(folder: Path) -> None:
    """Remove a checkpoint; if the process is killed meanwhile, the folder is either complete or already renamed."""
    renamed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(renamed, ignore_errors=True)
    folder.rename(renamed)
    shutil.rmtree(renamed)


def remove_incomplete(checkpoints: Path) -> None:
    """Remove the checkpoints that killed runs wrote or removed only partially."""
    for ending in ("part", "removed"):
        for path in checkpoints.glob(f"step_*.{ending}"):
            shutil.rmtree(path, ignore_errors=True)


def verify(folder: Path, world: World) -> None:
    """Check every file of a checkpoint against the manifest; all ranks must call this, and share the work.

    Raises:
        DamagedCheckpointError: A file is missing or differs; the message names the first such file.
    """
    try:
        files = _manifest(folder)
        differences = [
            _difference(folder / name, files[name]) for name in sorted(files)[world.rank :: world.size]
        ]
    except DamagedCheckpointError as error:  # reported on all ranks below
        differences = [str(error)]
    for difference in itertools.chain(*world.gather(differences)):
        if difference is not None:
            raise DamagedCheckpointError(difference)


def read_shared(folder: Path) -> dict[str, Any]:
    """Read the values that are equal on all ranks."""
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state


def read_rank(folder: Path, rank: int) -> dict[str, Any] | None:
    """Read the values of one rank; return None if the saved run had fewer ranks."""
    path = folder / f"rank_{rank}.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def read_tensors(folder: Path, into: dict[str, Tensor], world: World) -> None:
    """Read the tensors of a checkpoint into existing tensors of the same names."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    _silence_warning()
    try:
        load(into, checkpoint_id=folder, no_dist=world.size == 1)
    except CheckpointException as error:  # derives from BaseException
        first = next(iter(error.failures.values()))[0]
        raise ValueError(f"{folder} cannot be read: {first}") from error


def _save_tensors(tensors: Mapping[str, Tensor], folder: Path, world: World) -> dict[str, list[int]]:
    """Write tensors, and return the sizes and checksums of the files that this rank has written, by name."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    from torchtune.distributed._checksums import ChecksumFileSystem

    _silence_warning()
    writer = FileSystemWriter(folder)
    writer.fs = file_system = ChecksumFileSystem()
    save(dict(tensors), storage_writer=writer, no_dist=world.size == 1, process_group=world.group)
    return file_system.fingerprints


def _save_values(values: Mapping[str, Any], path: Path) -> list[int]:
    """Write values of this rank, and return the size and checksum of the file."""
    from torchtune.distributed._checksums import ChecksumFile

    with path.open("wb") as raw:
        file = ChecksumFile(raw)
        torch.save(dict(values), cast("IO[bytes]", file))
        raw.flush()
        os.fsync(raw.fileno())
    return [file.size, file.crc]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Convert the errors that torch raises on a full disk into an `OSError`, and remove the partial checkpoint.

    torch's zip writer discards the original error and raises a `RuntimeError` that mentions inline_container.cc, which
    torch.distributed.checkpoint wraps in a `BaseException` with one error per rank.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (CheckpointException, RuntimeError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)  # to free the space
        causes = (
            [e for e, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        )
        for cause in causes:
            if isinstance(cause, OSError):
                raise OSError(
                    cause.errno, f"the checkpoint cannot be written: {cause.strerror}", folder
                ) from error
            if "inline_container" in str(cause):
                message = (
                    "the checkpoint cannot be written: the disk is full, or a file exceeds the size limit"
                )
                raise OSError(errno.ENOSPC, message, folder) from error
        raise


def _silence_warning() -> None:
    """Silence the warning that a single rank saves without a process group, which is intentional.

    The filter is permanent: `warnings.catch_warnings` is not thread-safe, and a thread may write checkpoints.
    """
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def _manifest(folder: Path) -> dict[str, list[int]]:
    """Read the sizes and checksums of a checkpoint's files."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except OSError:
        raise DamagedCheckpointError(f"{MANIFEST} is missing") from None
    except ValueError:
        raise DamagedCheckpointError(f"{MANIFEST} has changed since it was written") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise DamagedCheckpointError(
            f"{MANIFEST} has format {version!r}; this version of torchtune reads format {FORMAT}"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(f, list) and len(f) == 2 for f in files.values()):
        raise DamagedCheckpointError(f"{MANIFEST} has changed since it was written")
    return files


def _difference(path: Path, expected: list[int]) -> str | None:
    """Return the difference between a file and its manifest entry, or None if they match."""
    if not path.exists():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != expected[0]:
        return f"{path.name} is {size} bytes; expected {expected[0]}"
    return None if _fingerprint(path) == expected else f"{path.name} has changed since it was written"


def _fingerprint(path: Path) -> list[int]:
    """Return a file's size and CRC-32, which detects damage (not tampering), at 0.4 GB/s or more."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return [path.stat().st_size, crc]


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
