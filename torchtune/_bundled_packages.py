"""Import torchtune's `recipes`, `configs_py` and `configs_yaml`, even if a user's project has packages of these names.

The packages are located by their folders, which are next to torchtune's. `torchtune.recipes` and
`torchtune.configs_py` can always be imported. If the plain names `recipes` and `configs_py` also resolve to
torchtune's packages, both names refer to the same modules.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

BUNDLED_PACKAGES: Final = ("recipes", "configs_py")
PROJECTS_VARIABLE: Final = "TUNE_PROJECTS"
"""The environment variable that lists the folders whose `recipes` and `configs_py` precede torchtune's."""

_PREFIX: Final = "torchtune."
# Importing pathlib would slow `tune --help` by 10%.
_ROOT: Final = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120


def folder_of(package: str) -> str:
    """Return the folder of a package next to torchtune, such as `recipes`, without importing the package."""
    return os.path.join(_ROOT, package)  # noqa: PTH118 -- importing pathlib slows `tune ls` by 10%


def is_torchtune(module: str) -> bool:
    """Return whether a module name resolves to torchtune or to its `recipes` or `configs_py`, not to a project's."""
    package = module.partition(".")[0]
    if package not in BUNDLED_PACKAGES:
        return package == "torchtune"
    loaded = sys.modules.get(package)
    if loaded is None:
        from importlib.util import find_spec

        folders = getattr(find_spec(package), "submodule_search_locations", None)
    else:
        folders = getattr(loaded, "__path__", None)
    return folder_of(package) in map(os.path.realpath, folders or ())


def bundled_name(file: "Path") -> str | None:
    """Return the module name of a file in torchtune's `recipes` or `configs_py`; None for other files."""
    for package in BUNDLED_PACKAGES:
        folder = folder_of(package)
        if file.is_relative_to(folder):
            return ".".join(["torchtune", package, *file.relative_to(folder).with_suffix("").parts])
    return None


def shadowing_hint(error: BaseException) -> str:
    """Return a hint that names torchtune's module if a project's package of the same name lacks the imported module."""
    name = getattr(error, "name", None) or ""
    is_candidate = isinstance(error, ModuleNotFoundError) and name.partition(".")[0] in BUNDLED_PACKAGES
    if is_candidate and os.path.isfile(f"{folder_of(name.replace('.', '/'))}.py"):  # noqa: PTH113
        return f"torchtune's module is torchtune.{name}"
    return ""


def prefer_project_packages(file: "str | Path") -> None:
    """Make `recipes` and `configs_py` refer to the packages of a file's project, if the project has such packages.

    The project's folder is not added to `sys.path`, so that a `torch.py` in it does not shadow torch.
    """
    folder = os.path.dirname(os.path.realpath(file))  # noqa: PTH120
    while os.path.isfile(os.path.join(folder, "__init__.py")):  # noqa: PTH113, PTH118
        folder = os.path.dirname(folder)  # noqa: PTH120
    projects = _projects()
    has_packages = any(_has_package(folder, package) for package in BUNDLED_PACKAGES)
    if has_packages and folder not in (*projects, _ROOT):
        os.environ[PROJECTS_VARIABLE] = os.pathsep.join([*projects, folder])


def _has_package(folder: str, package: str) -> bool:
    return os.path.isfile(os.path.join(folder, package, "__init__.py"))  # noqa: PTH113, PTH118


def _projects() -> list[str]:
    return [folder for folder in os.environ.get(PROJECTS_VARIABLE, "").split(os.pathsep) if folder]


class BundledPackageFinder:
    """A finder for `torchtune.recipes`, `torchtune.configs_py` and a project's packages of these names."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module in one of these packages; None for other modules (the `sys.meta_path` API)."""
        if name in BUNDLED_PACKAGES:
            folders = [folder for folder in _projects() if _has_package(folder, name)]
            return PathFinder.find_spec(name, folders)
        plain = name.removeprefix(_PREFIX)
        package = plain.partition(".")[0]
        if plain == name or package not in BUNDLED_PACKAGES:
            return None
        if _is_alias(package):
            from importlib.util import find_spec

            loader: Any = _AliasLoader(plain)
            return ModuleSpec(name, loader) if find_spec(plain) else None
        return PathFinder.find_spec(name, [_ROOT] if package == plain else path)


def _is_alias(package: str) -> bool:
    """Return whether `torchtune.X` and `X` are the same module, where X is `package`."""
    loaded = sys.modules.get(_PREFIX + package)
    return is_torchtune(package) if loaded is None else loaded.__name__ == package


class _AliasLoader:
    """A loader that returns an existing module under a second name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        """Return the existing module."""
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's original spec, which the import system has replaced."""
        module.__spec__ = self.spec
