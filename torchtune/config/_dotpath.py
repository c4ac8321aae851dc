"""Resolve a dotpath to the object that it names, and an object to its shortest public dotpath."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torchtune.config._mistakes import Mistake, RejectedError, did_you_mean, reject
from torchtune.config._trust import TORCHTUNE_PACKAGES, Trust, current_trust, object_rejection, path_rejection


def locate(path: str) -> Callable[..., Any]:
    """Return the class or function at a public, trusted dotpath.

    Raises:
        RejectedError: The dotpath is malformed, private, not trusted, missing, or not a module-level class or function.
    """
    return _locate(path, current_trust())


def is_component_path(path: str) -> bool:
    """Return whether a dotpath refers to a class or function that a config may use."""
    try:
        locate(path)
    except RejectedError:
        return False
    return True


def _locate(path: str, trust: Trust) -> Callable[..., Any]:
    return _locate_cached(path, trust.packages, trust.folders)


@functools.lru_cache(maxsize=1024)
def _locate_cached(path: str, _packages: frozenset[str], _folders: tuple[str, ...]) -> Callable[..., Any]:
    """Return the object at a dotpath; results are cached for each set of trusted packages and folders."""
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise _unknown(path, f"{path!r} is not a dotpath", "use the form package.module.Name")
    rejection = path_rejection(path)
    if rejection:
        raise reject("component", f"{path} is not allowed: {rejection.reason}", rejection.suggestion)
    if any(part.startswith("_") for part in parts):
        raise reject("component", f"{path} is private", _public_name(path, parts))
    holder, name = _walk(path, parts)
    obj = getattr(holder, name)
    reason = object_rejection(obj) if callable(obj) else None
    if reason:
        raise reject("component", f"{path} is not allowed: {reason}")
    if not isinstance(holder, ModuleType):
        reason = "a component must be a module-level class or function, not a class attribute"
        raise reject("component", f"{path} is not allowed: {reason}")
    if not callable(obj) or isinstance(obj, ModuleType):
        raise reject("component", f"{path} is not a class or a function")
    return obj  # type: ignore[no-any-return]  # callable was checked above


def _walk(path: str, parts: list[str]) -> tuple[Any, str]:
    """Import the modules along a dotpath; return the object that contains the last name, and that name."""
    holder: Any = _import(path, parts[0])
    for i, part in enumerate(parts[1:], 1):
        if isinstance(holder, ModuleType) and not hasattr(holder, part):
            _import_submodule(path, ".".join(parts[: i + 1]))
        if not hasattr(holder, part):
            public_names = [n for n in dir(holder) if not n.startswith("_")]
            owner = ".".join(parts[:i])
            raise _unknown(path, f"{owner} has no {part!r}", did_you_mean(part, public_names))
        if i < len(parts) - 1:
            holder = getattr(holder, part)
    return holder, parts[-1]


def _import(path: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        suggestion = did_you_mean(module, TORCHTUNE_PACKAGES)
        raise _unknown(path, f"{path}: no module {error.name!r}", suggestion) from error
    except (Exception, SystemExit) as error:
        raise _failed_import(path, module, f"{type(error).__name__}: {error}") from error


def _import_submodule(path: str, module: str) -> None:
    """Import a module if it exists; raise an error if it exists but cannot be imported."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise _failed_import(path, module, f"no module {error.name!r}") from error
    except (Exception, SystemExit) as error:
        raise _failed_import(path, module, f"{type(error).__name__}: {error}") from error


def _unknown(path: str, message: str, suggestion: str) -> RejectedError:
    """Return the error for a dotpath that does not exist."""
    return RejectedError(Mistake("component", message, suggestion, got=path))


def _failed_import(path: str, module: str, reason: str) -> RejectedError:
    return reject("component", f"{path}: importing {module} failed: {reason}")


def _public_name(path: str, parts: list[str]) -> str:
    """Suggest a public name in the package above the first private segment, without importing private modules."""
    public = parts[: next(i for i, part in enumerate(parts) if part.startswith("_"))]
    try:
        holder, last = _walk(path, public) if len(public) > 1 else (None, "")
        package = getattr(holder, last) if last else _import(path, public[0])
    except (RejectedError, IndexError):
        package = None
    if not parts[-1].startswith("_") and callable(getattr(package, parts[-1], None)):
        return f"use {'.'.join([*public, parts[-1]])}"
    return "use a name that its package exports"


@functools.lru_cache(maxsize=1024)
def dotpath(obj: Callable[..., Any]) -> str:
    """Return the shortest public dotpath that resolves to this object.

    Raises:
        ValueError: The object has no public dotpath, for example because it is a lambda, local or private.
    """
    module = str(getattr(obj, "__module__", None) or "")
    name = str(getattr(obj, "__qualname__", None) or getattr(obj, "__name__", repr(obj)))
    if "<lambda>" in name:
        raise ValueError("a lambda has no dotpath; define a module-level function instead")
    if "<locals>" in name:
        raise ValueError(f"{name} is defined inside a function; move it to module level")
    if module == "__main__":
        module = _main_stem(name)
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{name} is defined in {module!r}, an invalid module name; rename the file")
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        prefix = ".".join(parts[:length])
        holder = sys.modules.get(prefix)
        if not any(p.startswith("_") for p in [*parts[:length], name]) and _get(holder, name) is obj:
            return f"{prefix}.{name}"
    if module == _main_module():
        return f"{module}.{name}"
    raise ValueError(f"{module}.{name} is private or not exported; export it from its package")


def _get(holder: Any, name: str) -> Any:
    return getattr(holder, name, None) if holder is not None and "." not in name else None


def _main_module() -> str:
    main = inspect.getattr_static(sys.modules.get("__main__"), "__file__", None)
    return Path(str(main)).stem if main else ""


def _main_stem(name: str) -> str:
    """Return the name by which the running script can be imported, if its folder is trusted."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main and str(Path(main).resolve().parent) in current_trust().folders:
        return Path(main).stem
    raise ValueError(f"{name} is defined in __main__; move it to a module that can be imported")
