"""Folders that are complete or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a new folder to write into, beside the wanted one, and rename it once everything is written.

    Killed in between, it leaves `<folder>.partial`, which the next attempt starts by removing.

    Args:
        folder: Where the result goes; parents are made.
        overwrite: Replace a folder that exists. It stays in place until the new one is complete.

    Yields:
        The folder to write into.

    Raises:
        FileExistsError: `folder` is a file, or it has something in it and `overwrite` is False.
    """
    target = Path(folder).absolute()
    _check_free(target, overwrite=overwrite)
    partial = partial_of(target)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _check_free(target, overwrite=overwrite)
    if target.is_dir() and any(target.iterdir()):
        replaced = target.with_name(f"{target.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
        partial.rename(target)
        shutil.rmtree(replaced)
    else:
        partial.rename(target)


def partial_of(target: Path) -> Path:
    """Return the folder that stands in for one which is being written."""
    return target.with_name(f"{target.name}.partial")


def _check_free(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file, a folder was to be written there; choose another name")
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; remove it or choose another folder")
