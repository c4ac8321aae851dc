"""Files and folders that are complete or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a new folder to write into, beside the wanted one, and rename it once everything is written.

    Killed in between, it leaves `<folder>.torchtune-partial`, which the next attempt starts by removing.

    Args:
        folder: Where the result goes; parents are made. Of a symlink, what it leads to.
        overwrite: Replace a folder that exists. It stays in place until the new one is complete.

    Yields:
        The folder to write into.

    Raises:
        FileExistsError: `folder` is a file, it has something in it and `overwrite` is False, or a file has the name of
            what is written beside it.
        ValueError: `folder` is one that cannot be renamed: the root, a mount point, or where we are.
    """
    import shutil

    target = resolved(folder)
    _check_free(target, overwrite=overwrite)
    partial = _emptied(partial_of(target))
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _check_free(target, overwrite=overwrite)
    if target.is_dir() and any(target.iterdir()):
        replaced = _emptied(target.with_name(f"{target.name}.torchtune-replaced"))
        target.rename(replaced)
        partial.rename(target)
        shutil.rmtree(replaced)
    else:
        partial.rename(target)


def write_text(file: Path, text: str) -> None:
    """Write a file beside and rename it, so that a kill leaves the old file or the new one."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def resolved(folder: str | os.PathLike[str]) -> Path:
    """Follow a folder's symlinks, also to where nothing is yet.

    Raises:
        ValueError: it can be no target: the root, a mount point, or where we are, all of which are not to be renamed.
    """
    try:
        target = Path(folder).resolve()
    except RuntimeError as error:  # how pathlib says it before Python 3.13
        raise ValueError(f"{folder} is a symlink that leads back to itself; remove it") from error
    if target == target.parent:
        raise ValueError(f"{target} is the root of the file system; name a folder in it")
    if target.is_mount():
        raise ValueError(f"{target} is a mount point, which cannot be replaced; name a folder in it")
    if _is_current(target):
        raise ValueError(
            f"{target} is the current directory, or one that it lies in, and would be replaced; name a folder in it"
        )
    return target


def partial_of(target: Path) -> Path:
    """Return the folder that stands in for one which is being written; nobody else uses such a name."""
    return target.with_name(f"{target.name}.torchtune-partial")


def _emptied(left_over: Path) -> Path:
    """Remove what a killed attempt left."""
    import shutil

    if left_over.is_symlink() or (left_over.exists() and not left_over.is_dir()):
        raise FileExistsError(
            f"{left_over} is no folder, and a folder was to be written there for a while; remove it"
        )
    if left_over.exists():
        shutil.rmtree(left_over)
    return left_over


def _is_current(target: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(target)
    except FileNotFoundError:  # removed under us
        return False


def _check_free(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file, a folder was to be written there; choose another name")
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; remove it or choose another folder")
