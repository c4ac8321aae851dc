"""The inputs of a run other than its config: the user's code, the data, and package versions."""

import glob
import hashlib
import os
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune._bundled_packages import bundled_name, folder_of
from torchtune._pluralize import pluralize
from torchtune.config.model import COMPONENT_KEY, Difference, current_trust, differences
from torchtune.runs._imports import with_imports

if TYPE_CHECKING:
    from torchtune.config.model import Layers

_MAX_WHOLE_BYTES = 64 * 2**20
"""The maximum size (bytes) of a file that is hashed entirely."""
_PIECES, _PIECE_BYTES = 64, 2**16
"""The number and size (bytes) of the evenly spaced pieces of a larger file that are hashed."""
_MAX_FILES = 10_000
"""The maximum number of files in a folder that are hashed."""
_OUTPUT_FIELDS = ("output_dir", "metric_logger", "profiling", "loading.token_cache")
"""Fields whose values are files that the run writes."""
_INSTALLED = tuple({sys.prefix, sys.base_prefix})
KINDS = ("code", "sources", "packages", "versions", "git")
"""Entries of a record whose changes may affect results."""
_CODE = {".py", ".yaml", ".yml"}
_SELF = ("torch", "torchtune", "recipes", "configs_py")
"""Packages whose versions are always recorded."""


def provenance(layers: "Layers", tree: Mapping[str, Any], output_paths: Sequence[Path]) -> dict[str, Any]:
    """Return a run's code, its data and the versions of its components' packages, as JSON-compatible values.

    Args:
        layers: The checked config; its components have been imported.
        tree: The frozen config.
        output_paths: Files and folders that the run writes (`RunFolder.owned_paths`), excluded from the user's code.
    """
    files = code_files(layers, tree, output_paths)
    return {
        "code": {name: {"path": str(path), "sha256": _sha256([path])} for name, path in files.items()},
        "repositories": {str(root): _git_state(root) for root in _repositories(files.values())},
        "sources": {path: fingerprint(value) for path, value in _data_paths(tree)},
        "packages": _packages(tree),
    }


def code_files(layers: "Layers", tree: Mapping[str, Any], output_paths: Sequence[Path]) -> dict[str, Path]:
    """Return the user's files that a run reads or imports, by the names of their copies.

    These are the recipe, the program that runs it, the config's files, the modules of its components, modules imported
    from the folder of a file that the user passed, and all modules that these files import, even if a run imports them
    later. Installed packages are recorded by version instead.
    """
    trust = current_trust()
    folders = [Path(folder) for folder in trust.folders]

    def is_users_file(file: Path) -> bool:
        return (
            file.suffix in _CODE
            and file.is_file()
            and not (_is_torchtune_file(file) or _is_below(file, output_paths))
        )

    named = [*trust.files, *layers.programs, *(source.source for source in layers.sources if source.source)]
    files = [file for file in (Path(name).resolve() for name in named) if is_users_file(file)]
    imported = _imported_files(folders, {*_modules_of(tree), "__main__"})
    files += [file for file in imported if is_users_file(file) and not _is_installed(file)]
    copies: dict[str, Path] = {}
    for file in with_imports(files, folders, lambda file: is_users_file(file) and not _is_installed(file)):
        copies[_unused_name(file, folders, copies)] = file
    return copies


def _imported_files(folders: Sequence[Path], named_modules: Container[str]) -> Iterator[Path]:
    """Yield the resolved files of imported modules that are named or are below the folders.

    A run imports thousands of files from hundreds of folders, so folders are resolved, and paths are strings.
    """
    is_below = cache(lambda folder: _is_below(Path(folder).resolve(), folders))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if name in named_modules or is_below(os.path.dirname(file)) or os.path.islink(file):  # noqa: PTH114, PTH120
            resolved = Path(file).resolve()
            if name in named_modules or _is_below(resolved, folders):
                yield resolved


def _is_torchtune_file(file: Path) -> bool:
    return bundled_name(file) is not None or file.is_relative_to(folder_of("torchtune"))


def _is_below(file: Path, paths: Iterable[str | Path]) -> bool:
    return any(file.is_relative_to(path) for path in paths)


def _is_installed(file: Path) -> bool:
    return "site-packages" in file.parts or _is_below(file, _INSTALLED)


def _unused_name(file: Path, folders: Iterable[Path], copies: Mapping[str, Path]) -> str:
    """Return the name for a copy: its path relative to the user's folder, with a number if the name is in use."""
    folder = next((folder for folder in folders if file.is_relative_to(folder)), file.parent)
    name = unused = file.relative_to(folder).as_posix()
    number = 1
    while unused in copies:
        number += 1
        unused = f"{number}/{name}"
    return unused


def _repositories(files: Iterable[Path]) -> list[Path]:
    """Return the git repositories that contain the files."""
    roots = (next((f for f in file.parents if (f / ".git").exists()), None) for file in files)
    return list(dict.fromkeys(root for root in roots if root is not None))


def _git_state(root: Path) -> dict[str, Any] | None:
    """Return a repository's commit and a hash of the uncommitted changes; None if git fails."""
    git = ["git", "-C", str(root)]
    try:
        commit, changes = (
            subprocess.run(command, capture_output=True, timeout=10, check=True).stdout  # noqa: S603 -- git
            for command in ([*git, "rev-parse", "HEAD"], [*git, "diff", "HEAD"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {
        "commit": commit.decode().strip(),
        "changes": hashlib.sha256(changes).hexdigest() if changes else None,
    }


def _data_paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the field path and value of each string in a config that is the path of existing files."""
    for path, value in _strings(tree, ""):
        is_written = any(path == field or path.startswith(f"{field}.") for field in _OUTPUT_FIELDS)
        if not is_written and 0 < len(value) < 4096 and not path.endswith(COMPONENT_KEY) and files_of(value):
            yield path, value


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _strings(inner, f"{path}.{i}")


def files_of(text: str) -> list[Path]:
    """Return the files at a path: a single file, the files in a folder, or the matches of a pattern; may be empty."""
    if "\0" in text or "\n" in text:
        return []
    path = Path(text).expanduser()
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            hidden = (p for p in sorted(path.rglob("*")) if p.is_file())
            files = (p for p in hidden if not any(part.startswith(".") for part in p.relative_to(path).parts))
            return [file for _, file in zip(range(_MAX_FILES), files, strict=False)]
        if glob.has_magic(text):
            matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 -- the pattern may be absolute
            return [match for match in map(Path, sorted(matches)) if match.is_file()]
    except (OSError, ValueError):
        return []
    return []


def fingerprint(text: str) -> dict[str, Any]:
    """Return the number, total bytes and hash of the files at a path (see `files_of`), to detect edits.

    Files of up to 64 MiB are hashed entirely; of larger files, 64 pieces of 64 KiB are hashed.
    """
    files = files_of(text)
    return {"files": len(files), "bytes": sum(f.stat().st_size for f in files), "sha256": _sha256(files)}


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _MAX_WHOLE_BYTES:
                digest.update(file.read())
                continue
            for i in range(_PIECES):
                file.seek((size - _PIECE_BYTES) * i // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def _packages(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the packages that contain the config's components."""
    names = {dotpath.partition(".")[0] for dotpath in _dotpaths(tree)} - {*_SELF}
    return {name: version for name in sorted(names) if (version := _version(name)) is not None}


def _dotpaths(tree: Mapping[str, Any]) -> list[str]:
    """Return the dotpaths of a config's components."""
    return [value for path, value in _strings(tree, "") if path.rpartition(".")[2] == COMPONENT_KEY]


def _modules_of(tree: Mapping[str, Any]) -> set[str]:
    """Return the modules in the dotpaths of a config's components, and the modules that define the components."""
    modules = set()
    for dotpath in _dotpaths(tree):
        module, _, name = dotpath.rpartition(".")
        component = getattr(sys.modules.get(module), name, None)
        modules |= {module, str(getattr(component, "__module__", module))}
    return modules


def _version(package: str) -> str | None:
    """Return the version of the distribution that provides a package; None if it has no distribution."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is not None and not _is_installed(Path(file)):
        return None  # the user's code is recorded instead; the import below would take 50 ms
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    try:
        return version(package)
    except PackageNotFoundError:
        distributions = packages_distributions().get(package, ())
    return version(distributions[0]) if distributions else None


def altered_inputs(previous: Mapping[str, Any], current: Mapping[str, Any]) -> list[Difference]:
    """Return the differences between the inputs of two runs that may affect results.

    Args:
        previous: A run's record (`run.json`).
        current: A different run's record, or the current values of `provenance` and `record`.

    Returns:
        The differences, with paths such as `code.recipe.py`, `sources.dataset.source`, `packages.muon` and
        `versions.torch`. Only entries in both records are compared; of the code, only Python files are compared.
    """
    return [
        difference
        for kind in KINDS
        if isinstance(previous.get(kind), Mapping) and isinstance(current.get(kind), Mapping)
        for difference in differences(
            *({kind: _compared(kind, side, previous, current)} for side in (previous, current))
        )
    ]


def _compared(
    kind: str, side: Mapping[str, Any], previous: Mapping[str, Any], current: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of a kind in one record, in the form that is compared and printed."""
    values = side[kind]
    if kind == "git":
        return {"commit": values.get("commit")}
    if kind == "sources":
        return {name: _size(value) for name, value in values.items()}
    # Some libraries are loaded by only one command, and some files belong to only one of the configs.
    common = previous[kind].keys() & current[kind].keys()
    if kind == "code":
        return {name: values[name]["sha256"][:12] for name in sorted(common) if name.endswith(".py")}
    return {name: values[name] for name in sorted(common)}


def _size(value: Mapping[str, Any]) -> str:
    """Return a fingerprint as text."""
    return f"{pluralize(value['files'], 'file')}, {pluralize(value['bytes'], 'byte')}, {value['sha256'][:12]}"


def environment_changes(previous: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """Yield a note for each change of the environment; such a change may affect results only in the last bits."""
    for kind in ("threads", "machine", "gpus"):
        for path, left, right in differences({kind: previous.get(kind)}, {kind: current.get(kind)}):
            yield f"{path} was {left} when the run started and is {right} now"
