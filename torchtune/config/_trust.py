"""What a config may name: a dotpath is data that names code, and people run YAML files of strangers.

The first segment of a dotpath is judged before anything is imported, the defining module of the object that it
leads to afterwards. See `docs/trust.md`.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from attrs import define, evolve, field

from torchtune._own_packages import PACKAGES, is_own, prefer_packages_beside
from torchtune.config._mistakes import did_you_mean

OWN_PACKAGES: Final = ("torchtune", *PACKAGES)
WITHOUT_COMPONENTS: Final = ("torchtune.config.", "torchtune.runs.", "torchtune.cli.")
"""Parts of torchtune that run a config and are never named by one."""
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
"""Classes whose subclasses may stand where no type is declared; torchtune's builders that return one may too.

A package of torchtune adds its own to them, as `COMPONENT_KINDS`.
"""


class Refusal(NamedTuple):
    """Why a dotpath may not be imported."""

    why: str
    suggestion: str = ""


@define
class Trust:
    """Which packages and folders the user trusts, beyond torchtune's own and torch's components."""

    packages: frozenset[str] = frozenset()
    """First segments added with `--allow` or `TUNE_ALLOW`."""
    folders: tuple[str, ...] = ()
    """Folders of Python files that the user named on the command line."""
    files: tuple[str, ...] = ()
    """Those files themselves, whose functions may stand where no type is declared."""


@define
class _Current:
    trust: Trust = field(factory=Trust)


_current = _Current()


def current_trust() -> Trust:
    """Return what is trusted now, the environment's `TUNE_ALLOW` included."""
    allowed = os.environ.get("TUNE_ALLOW", "").replace(",", " ").split()
    return evolve(_current.trust, packages=_current.trust.packages | frozenset(allowed))


def allow(*packages: str) -> None:
    """Trust packages, as `--allow PACKAGE` does."""
    _current.trust.packages |= frozenset(packages)


def trust_folder_of(file: str | Path) -> None:
    """Trust the folder of a Python file that the user named, and make it importable.

    It is appended to `sys.path`, never put before it, so that a `torch.py` there shadows nothing.
    """
    prefer_packages_beside(file)
    named = str(Path(file).resolve())
    if named not in _current.trust.files:
        _current.trust.files += (named,)
    folder = str(Path(file).resolve().parent)
    if folder not in _current.trust.folders:
        _current.trust.folders += (folder,)
    if folder not in sys.path:
        sys.path.append(folder)


@contextmanager
def only_trusting(trust: Trust) -> Iterator[None]:
    """Trust exactly `trust` for a while; for tests and embedding programs."""
    before, _current.trust = _current.trust, trust
    try:
        yield
    finally:
        _current.trust = before


def refuse_path(path: str) -> Refusal | None:
    """Judge a dotpath before anything is imported; return why it is refused, or None.

    Args:
        path: A public dotpath of at least two segments.
    """
    first = path.partition(".")[0]
    if path.startswith(WITHOUT_COMPONENTS):
        return Refusal(f"{'.'.join(path.split('.')[:2])} holds no components")
    if is_own(first) or first in current_trust().packages:
        return None
    if first == "torch":
        if any(path.startswith(f"{module}.") for module in TORCH_MODULES):
            return None
        near = did_you_mean(".".join(path.split(".")[:2]), TORCH_MODULES)
        return Refusal(f"of torch, only {', '.join(TORCH_MODULES)} are trusted", near)
    if first in sys.stdlib_module_names:
        return Refusal(f"{first!r} is part of Python itself, which holds no components")
    if _in_trusted_folder(_origin(first)) or _in_trusted_package(path):
        return None
    if first in OWN_PACKAGES:
        why = f"is a package of another project here, and ours is torchtune.{first}"
        return Refusal(f"{first!r} {why}", f"if you know its code, add --allow {first}")
    near = did_you_mean(first, (*OWN_PACKAGES, "torch"))
    return Refusal(f"{first!r} is not trusted", near or f"if you know its code, add --allow {first}")


def refuse_object(found: Any) -> str | None:
    """Judge an object by the module that defines it; return why it is refused, or None."""
    module = getattr(found, "__module__", None) or ""
    first = module.partition(".")[0]
    if module.startswith(WITHOUT_COMPONENTS):
        return f"it is defined in {module!r}, which holds no components"
    is_torchs = any(module == m or module.startswith(f"{m}.") for m in TORCH_MODULES)
    # The folder comes last, as its path has to be resolved.
    if is_own(first) or is_torchs or first in current_trust().packages or _in_trusted_folder(_file_of(found)):
        return None
    return f"it is defined in {module or 'no module'!r}, which is not trusted"


def is_users_own(found: Any) -> bool:
    """Tell whether an object is defined in a Python file that the user named."""
    file = _file_of(found)
    return file is not None and str(Path(file).resolve()) in _current.trust.files


def _file_of(found: Any) -> str | None:
    """Return the file that defines an object."""
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    return getattr(module, "__file__", None)


def is_kind(found: Any) -> bool:
    """Tell whether a class is, or derives from, one of torch's component kinds or of those that a package registers."""
    bases = getattr(found, "__mro__", ())
    return any(
        f"{c.__module__}.{c.__qualname__}" in TORCH_KINDS or c in _registered(c.__module__) for c in bases
    )


def _registered(module: str) -> tuple[type, ...]:
    """Return the component kinds that a module of torchtune, or the package that it is in, registers."""
    if not module.startswith("torchtune."):
        return ()
    homes = (sys.modules.get(name) for name in (module, module.rpartition(".")[0]))
    return tuple(kind for home in homes for kind in getattr(home, "COMPONENT_KINDS", ()))


def _origin(package: str) -> str | None:
    """Return the file that importing a top-level name would run, without running it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec and spec.has_location else None


def _in_trusted_package(path: str) -> bool:
    """Tell whether a dotpath leads into a trusted folder that is itself part of a package, such as `mine.recipes`."""
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
    """Tell whether a file is a module of a trusted folder, or lies in a package that begins there.

    A folder below it that is no package, such as `.venv`, holds other people's code.
    """
    if not file:
        return False
    above = Path(file).resolve().parents
    for folder in map(Path, _current.trust.folders):
        if folder in above:
            between = above[: above.index(folder)]
            return all((package / "__init__.py").is_file() for package in between)
    return False
