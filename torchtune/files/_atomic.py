"""Write files and folders atomically: they appear only once they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchtune.files._ranks import SINGLE_RANK, Ranks


@contextmanager
def atomic_folder(
    folder: str | os.PathLike[str], *, overwrite: bool = False, ranks: Ranks = SINGLE_RANK
) -> Iterator[Path]:
    """Yield a temporary folder next to the target, and rename it to the target on success.

    If the process is killed, `<folder>.torchtune-partial` remains; the next call for the same folder removes it.

    Args:
        folder: The target; parents are created, and symlinks are followed.
        overwrite: Replace an existing folder, which stays in place until the new one is complete.
        ranks: The ranks that write the folder, all of which must call this. Rank 0 creates and renames it, which it
            does once all ranks have succeeded.

    Yields:
        The temporary folder to write into.

    Raises:
        FileExistsError: `folder` is a file, `folder` is not empty and `overwrite` is False, or a file has the name of
            the temporary folder.
        ValueError: `folder` cannot be renamed, because it is the root, a mount point, the working directory, or a
            parent of the working directory.
    """
    import shutil

    target = resolve_folder(folder)
    if ranks.rank != 0:
        ranks.barrier()
        yield partial_path(target)
        ranks.barrier()
        return
    _check_available(target, overwrite=overwrite)
    partial = _remove_leftover(partial_path(target))
    partial.mkdir(parents=True)
    ranks.barrier()
    try:
        yield partial
        ranks.barrier()
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _check_available(target, overwrite=overwrite)
    if target.is_dir() and any(target.iterdir()):
        replaced = _remove_leftover(target.with_name(f"{target.name}.torchtune-replaced"))
        target.rename(replaced)
        partial.rename(target)
        shutil.rmtree(replaced)
    else:
        partial.rename(target)


def write_text(file: Path, text: str) -> None:
    """Write a file atomically: if the process is killed, the file has either its old or its new content."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def resolve_folder(folder: str | os.PathLike[str]) -> Path:
    """Resolve the symlinks of a folder, which need not exist.

    Raises:
        ValueError: The symlinks form a loop, or the folder cannot be renamed, because it is the root, a mount point,
            the working directory, or a parent of the working directory.
    """
    try:
        target = Path(folder).resolve()
    except RuntimeError as error:  # raised by pathlib before Python 3.13
        raise ValueError(f"{folder} is a symlink loop; remove it") from error
    if target == target.parent:
        raise ValueError(f"{target} is the root of the file system; choose a folder inside it")
    if target.is_mount():
        raise ValueError(f"{target} is a mount point, which cannot be replaced; choose a folder inside it")
    if _contains_current_directory(target):
        raise ValueError(
            f"{target} is the working directory or one of its parents, and would be replaced; choose a folder inside it"
        )
    return target


def partial_path(target: Path) -> Path:
    """Return the temporary folder of a target that is being written."""
    return target.with_name(f"{target.name}.torchtune-partial")


def _remove_leftover(folder: Path) -> Path:
    """Remove the temporary folder of a killed process, if it exists, and return its path."""
    import shutil

    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(
            f"{folder} is not a folder, but a temporary folder with this name is needed; remove it"
        )
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def _contains_current_directory(target: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(target)
    except FileNotFoundError:  # the working directory was removed
        return False


def _check_available(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; expected a folder, or a path that does not exist")
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; remove it or choose another folder")
