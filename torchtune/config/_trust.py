"""Trust in code: dotpaths in YAML files from untrusted sources must not run arbitrary code.

The dotpath itself is checked before anything is imported; the module that defines the object is checked afterwards.
See `docs/trust.md`.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attrs import define, evolve, field

from torchtune._bundled_packages import BUNDLED_PACKAGES, is_torchtune, prefer_project_packages
from torchtune.config._mistakes import did_you_mean

TORCHTUNE_PACKAGES: Final = ("torchtune", *BUNDLED_PACKAGES)
WITHOUT_COMPONENTS: Final = ("torchtune.config.", "torchtune.runs.", "torchtune.cli.")
"""Packages of torchtune that process configs and contain no components."""
TORCH_MODULES: Final = ("torch.nn", "torch.optim", "torch.utils.data")

TORCH_KINDS: Final = frozenset(
    {
        "torch.nn.modules.module.Module",
        "torch.optim.optimizer.Optimizer",
        "torch.optim.lr_scheduler.LRScheduler",
        "torch.utils.data.dataset.Dataset",
        "torch.utils.data.sampler.Sampler",
        "torch.utils.data.dataloader.DataLoader",
    }
)
"""Base classes of the components that a field without a type accepts.

Such a field also accepts torchtune's functions that return instances. Packages register more in `COMPONENT_KINDS`.
"""


class Rejection(NamedTuple):
    """The reason why a dotpath must not be imported."""

    reason: str
    suggestion: str = ""


@define
class Trust:
    """Packages and folders that the user trusts, in addition to torchtune and torch's components."""

    packages: frozenset[str] = frozenset()
    """Top-level packages added with `--allow` or `TUNE_ALLOW`."""
    folders: tuple[str, ...] = ()
    """Folders of the Python files that the user passed on the command line."""
    files: tuple[str, ...] = ()
    """The Python files that the user passed; fields without a type accept functions from these files."""


@define
class _Current:
    trust: Trust = field(factory=Trust)


_current = _Current()


def current_trust() -> Trust:
    """Return the current trust, including `TUNE_ALLOW` from the environment."""
    allowed = os.environ.get("TUNE_ALLOW", "").replace(",", " ").split()
    return evolve(_current.trust, packages=_current.trust.packages | frozenset(allowed))


def allow(*packages: str) -> None:
    """Trust packages, as `--allow PACKAGE` does."""
    _current.trust.packages |= frozenset(packages)


def trust_folder_of(file: str | Path) -> None:
    """Trust the folder of a Python file that the user passed, and make its modules importable.

    The folder is appended to `sys.path`, so that a `torch.py` in it does not shadow the installed package.
    """
    prefer_project_packages(file)
    path = str(Path(file).resolve())
    if path not in _current.trust.files:
        _current.trust.files += (path,)
    folder = str(Path(file).resolve().parent)
    if folder not in _current.trust.folders:
        _current.trust.folders += (folder,)
    if folder not in sys.path:
        sys.path.append(folder)


@contextmanager
def only_trusting(trust: Trust) -> Iterator[None]:
    """Trust exactly `trust` within the context; for tests and for programs that embed torchtune."""
    before, _current.trust = _current.trust, trust
    try:
        yield
    finally:
        _current.trust = before


def path_rejection(path: str) -> Rejection | None:
    """Return the reason why a dotpath must not be imported, or None; nothing is imported.

    Args:
        path: A public dotpath of at least two segments.
    """
    first = path.partition(".")[0]
    if path.startswith(WITHOUT_COMPONENTS):
        return Rejection(f"{'.'.join(path.split('.')[:2])} contains no components")
    if is_torchtune(first) or first in current_trust().packages:
        return None
    if first == "torch":
        if any(path.startswith(f"{module}.") for module in TORCH_MODULES):
            return None
        suggestion = did_you_mean(".".join(path.split(".")[:2]), TORCH_MODULES)
        return Rejection(f"in torch, only {', '.join(TORCH_MODULES)} are trusted", suggestion)
    if first in sys.stdlib_module_names:
        return Rejection(f"{first!r} is in the standard library; use a component of a trusted package")
    if _in_trusted_folder(_origin(first)) or _in_trusted_package(path):
        return None
    if first in TORCHTUNE_PACKAGES:
        reason = f"is a package of another project, not torchtune.{first}"
        return Rejection(f"{first!r} {reason}", f"if you trust its code, add --allow {first}")
    suggestion = did_you_mean(first, (*TORCHTUNE_PACKAGES, "torch"))
    return Rejection(f"{first!r} is not trusted", suggestion or f"if you trust its code, add --allow {first}")


def object_rejection(obj: Any) -> str | None:
    """Return the reason why the module that defines an object is not trusted, or None."""
    module = getattr(obj, "__module__", None) or ""
    first = module.partition(".")[0]
    if module.startswith(WITHOUT_COMPONENTS):
        return f"it is defined in {module!r}, which contains no components"
    is_torch = any(module == m or module.startswith(f"{m}.") for m in TORCH_MODULES)
    if is_torchtune(first) or is_torch or first in current_trust().packages:
        return None
    if _in_trusted_folder(_file_of(obj)):  # checked last, because resolving its path is slow
        return None
    return f"it is defined in {module or 'no module'!r}, which is not trusted"


def is_user_code(obj: Any) -> bool:
    """Return whether an object is defined in a Python file that the user passed."""
    file = _file_of(obj)
    return file is not None and str(Path(file).resolve()) in _current.trust.files


def _file_of(obj: Any) -> str | None:
    """Return the file that defines an object."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    return getattr(module, "__file__", None)


def is_kind(obj: Any) -> bool:
    """Return whether a class is a subclass of one of torch's component kinds or of a registered kind."""
    bases = getattr(obj, "__mro__", ())
    return any(
        f"{c.__module__}.{c.__qualname__}" in TORCH_KINDS or c in _registered(c.__module__) for c in bases
    )


def _registered(module: str) -> tuple[type, ...]:
    """Return the component kinds registered by a module of torchtune or by its package."""
    if not module.startswith("torchtune."):
        return ()
    modules = (sys.modules.get(name) for name in (module, module.rpartition(".")[0]))
    return tuple(kind for module_object in modules for kind in getattr(module_object, "COMPONENT_KINDS", ()))


def _origin(package: str) -> str | None:
    """Return the file that importing a top-level package would execute, without importing the package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec and spec.has_location else None


def _in_trusted_package(path: str) -> bool:
    """Return whether a dotpath is in a trusted folder that is itself a package, such as `mine.recipes`."""
    for trusted in map(Path, _current.trust.folders):
        parts: list[str] = []
        folder = trusted
        while (folder / "__init__.py").is_file():
            parts.insert(0, folder.name)
            folder = folder.parent
        origin = _origin(parts[0]) if parts and path.startswith(f"{'.'.join(parts)}.") else None
        if origin and Path(origin).resolve() == folder / parts[0] / "__init__.py":
            return True
    return False


def _in_trusted_folder(file: str | None) -> bool:
    """Return whether a file is a module in a trusted folder, or in a package inside that folder.

    Subfolders that are not packages, such as `.venv`, are not trusted.
    """
    if not file:
        return False
    parents = Path(file).resolve().parents
    for folder in map(Path, _current.trust.folders):
        if folder in parents:
            packages = parents[: parents.index(folder)]
            return all((package / "__init__.py").is_file() for package in packages)
    return False
