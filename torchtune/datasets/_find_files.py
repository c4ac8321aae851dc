"""Find the data files in a folder, or the data files that match a pattern."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from torchtune._similar_paths import did_you_mean_path
from torchtune.datasets._formats import ENDINGS, check_formats, format_of, is_saved

_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_DESCRIPTIONS = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|requirements)([-_]\w+)*(\.(txt|md|rst))?", re.IGNORECASE
)
"""Files that describe the data, such as LICENSE.txt."""
_BACKUPS = re.compile(r"#.*#|~\$.*|.*(~|\.bak|\.orig|\.swp)")
"""Backups and lock files of editors and office programs."""


@frozen
class DataFile:
    """A data file, or a folder written by `Dataset.save_to_disk`."""

    path: Path
    name: str
    """The path relative to the folder, or to the parts of the pattern before the first wildcard, with `/` as the
    separator."""


def files_in(folder: Path) -> list[DataFile]:
    """Return the data files in a folder and its subfolders, sorted by path.

    Raises:
        FileNotFoundError: There are no data files.
    """
    paths = sorted(_walk(folder, set()))
    if not paths:
        raise FileNotFoundError(f"{folder}: the folder contains no data files ({ENDINGS})")
    return [DataFile(path, path.relative_to(folder).as_posix()) for path in paths]


def matching_files(pattern: str) -> list[DataFile]:
    """Return the data files and saved folders that match a pattern, sorted by path.

    Raises:
        FileNotFoundError: No file matches.
        ValueError: The pattern matches a file that is not a data file.
    """
    expanded = Path(pattern).expanduser()
    n_fixed = _fixed_parts(expanded)
    matched = [Path(name) for name in glob.glob(str(expanded), recursive=True)]  # noqa: PTH207 - Path.glob does not accept absolute patterns.
    paths = sorted(
        path
        for path in matched
        if not _is_ignored(path, path.parts[n_fixed:]) and (path.is_file() or is_saved(path))
    )
    check_formats(paths)
    if not paths:
        message = f"{pattern}: the pattern matches no data files ({ENDINGS})"
        suggestion = did_you_mean_path(Path(*expanded.parts[:n_fixed]), Path.is_dir)
        raise FileNotFoundError(f"{message}; {suggestion}" if suggestion else message)
    return [DataFile(path, Path(*path.parts[n_fixed:]).as_posix()) for path in paths]


def did_you_mean_source(path: str | Path) -> str:
    """Return `did you mean x?` for a path that does not exist, or "" if no data file or folder has a similar path."""
    return did_you_mean_path(
        path, lambda similar: similar.is_dir() or (similar.is_file() and format_of(similar) is not None)
    )


def wildcard_part(pattern: str) -> str:
    """Return a pattern without its parts before the first wildcard."""
    path = Path(pattern).expanduser()
    return "/".join(path.parts[_fixed_parts(path) :])


def _fixed_parts(pattern: Path) -> int:
    """Count the parts of a pattern before the first wildcard."""
    return next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))


def _walk(folder: Path, visited: set[str]) -> Iterator[Path]:
    """Yield data files and saved folders. Links to folders are followed, but each folder is visited only once."""
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
    """Return whether to ignore a file: a description, a backup, or a file left over from an archive or a notebook."""
    if {"__MACOSX", "__pycache__", ".ipynb_checkpoints"} & set(parts):
        return True
    name = path.name
    return bool(name in _METADATA or _DESCRIPTIONS.fullmatch(name) or _BACKUPS.fullmatch(name))
