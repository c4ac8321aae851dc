"""The files of rows in a folder, or that a pattern matches."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from torchtune._near_paths import did_you_mean_path
from torchtune.datasets._formats import ENDINGS, check_formats, format_of, is_saved

_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|requirements)([-_]\w+)*(\.(txt|md|rst))?", re.IGNORECASE
)
"""Files about the data, such as LICENSE.txt."""
_BACKUPS = re.compile(r"#.*#|~\$.*|.*(~|\.bak|\.orig|\.swp)")
"""Files that editors and office programs write while another is open."""


@frozen
class FoundFile:
    """A file of rows, or a folder that `datasets` saved."""

    path: Path
    name: str
    """Its path within the folder, or from the first part of the pattern with a wildcard on; parts end in `/`."""


def files_in(folder: Path) -> list[FoundFile]:
    """Find the files of rows in a folder and its subfolders, in the order of their paths.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(_walk(folder, set()))
    if not found:
        raise FileNotFoundError(f"{folder}: the folder has no files of rows in it ({ENDINGS})")
    return [FoundFile(path, path.relative_to(folder).as_posix()) for path in found]


def matching_files(pattern: str) -> list[FoundFile]:
    """Find the files of rows, and saved folders, that a pattern matches, in the order of their paths.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It matches something else.
    """
    expanded = Path(pattern).expanduser()
    n_fixed = _fixed_parts(expanded)
    matched = [Path(name) for name in glob.glob(str(expanded), recursive=True)]  # noqa: PTH207 - a Path takes no absolute pattern.
    paths = sorted(
        path
        for path in matched
        if not _is_ignored(path, path.parts[n_fixed:]) and (path.is_file() or is_saved(path))
    )
    check_formats(paths)
    if not paths:
        message = f"{pattern}: the pattern has no files of rows in it ({ENDINGS})"
        near = did_you_mean_path(Path(*expanded.parts[:n_fixed]), Path.is_dir)
        raise FileNotFoundError(f"{message}; {near}" if near else message)
    return [FoundFile(path, Path(*path.parts[n_fixed:]).as_posix()) for path in paths]


def did_you_mean_source(path: str | Path) -> str:
    """Return `did you mean x?` for a path that does not exist, or nothing if no file or folder of rows is near."""
    return did_you_mean_path(
        path, lambda near: near.is_dir() or (near.is_file() and format_of(near) is not None)
    )


def wildcard_part(pattern: str) -> str:
    """Return a pattern from its first part with a wildcard on."""
    path = Path(pattern).expanduser()
    return "/".join(path.parts[_fixed_parts(path) :])


def _fixed_parts(pattern: Path) -> int:
    """Count the parts of a pattern that come before the first wildcard."""
    return next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))


def _walk(folder: Path, visited: set[str]) -> Iterator[Path]:
    """Yield files and saved folders; links to folders are followed, each folder once."""
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    for path in folder.iterdir():
        if path.name.startswith(".") or _is_ignored(path, (path.name,)):
            continue
        if format_of(path) is not None:
            yield path
        elif path.is_dir():
            yield from _walk(path, visited)


def _is_ignored(path: Path, parts: tuple[str, ...]) -> bool:
    """Tell what is never data: descriptions of it, backups, and what archives and notebooks leave in folders."""
    if {"__MACOSX", "__pycache__", ".ipynb_checkpoints"} & set(parts):
        return True
    name = path.name
    return bool(name in _METADATA or _ABOUT.fullmatch(name) or _BACKUPS.fullmatch(name))
