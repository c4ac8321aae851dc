"""Find the user's files that a Python file imports, by parsing its import statements, without executing any code."""

import ast
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from torchtune.runs._registry import syntax_tree


def with_imports(
    files: Iterable[Path], folders: Sequence[Path], is_users_file: Callable[[Path], bool]
) -> list[Path]:
    """Return `files` and the user's files that they import, directly or indirectly, including imports in functions.

    This includes modules that are imported only later in a run. Computed names (`importlib`) are not followed.

    Args:
        files: Files of any kind; Python files are parsed.
        folders: Folders to search for modules that are not importable yet.
        is_users_file: Returns whether a file belongs to the user; other files and their imports are skipped.
    """
    reached = dict.fromkeys(files)
    waiting = list(reached)
    while waiting:
        file = waiting.pop()
        new = [f for f in _imported_files(file, folders) if f not in reached and is_users_file(f)]
        reached |= dict.fromkeys(new)
        waiting += new
    return list(reached)


def _imported_files(file: Path, folders: Sequence[Path]) -> Iterator[Path]:
    if file.suffix != ".py":
        return
    try:
        module = syntax_tree(str(file))
    except (OSError, SyntaxError, ValueError):  # reported elsewhere, or the file is never imported
        return
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of_module(alias.name, file, folders)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:  # a module, or a name in a module
                name = ".".join(filter(None, [node.module, alias.name]))
                if node.level:
                    yield from _files_along(file.parents[node.level - 1], name)
                else:
                    yield from _files_of_module(name, file, folders)


def _files_of_module(name: str, importer: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the files of a module and its parent packages; yield nothing for a built-in module."""
    root = _importable_root(name.partition(".")[0])
    for folder in [_import_root(importer), *folders] if root is None else [root]:
        files = list(_files_along(folder, name))
        if files:
            yield from files
            return


def _importable_root(package: str) -> Path | None:
    """Return the folder from which a top-level module would be imported; None if it is not importable."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    locations = spec.submodule_search_locations or [spec.origin or ""]  # a built-in module has no folder
    return Path(next(iter(locations))).resolve().parent


def _import_root(file: Path) -> Path:
    """Return the folder that contains a file's top-level package."""
    folder = file.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _files_along(folder: Path, name: str) -> Iterator[Path]:
    """Yield the existing files that are executed when a dotted name is imported from a folder."""
    for part in name.split("."):
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            yield package.resolve()
        elif module.is_file():
            yield module.resolve()
            return
        folder /= part
