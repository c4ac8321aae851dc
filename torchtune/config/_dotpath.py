"""From a dotpath to the object that it names, and from an object to its shortest public dotpath."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torchtune.config._mistakes import Mistake, RejectedError, did_you_mean, reject
from torchtune.config._trust import (
    OWN_PACKAGES,
    Trust,
    current_trust,
    refuse_object,
    refuse_path,
)


def locate(path: str) -> Callable[..., Any]:
    """Return the class or function that a public, trusted dotpath names.

    Raises:
        RejectedError: It is malformed, private, not trusted, missing, or not a class or function of a module.
    """
    return _locate(path, current_trust())


def is_component_path(path: str) -> bool:
    """Tell whether a dotpath names a class or function that a config may name."""
    try:
        locate(path)
    except RejectedError:
        return False
    return True


def _locate(path: str, trust: Trust) -> Callable[..., Any]:
    return _locate_cached(path, trust.packages, trust.folders)


@functools.lru_cache(maxsize=1024)
def _locate_cached(path: str, _packages: frozenset[str], _folders: tuple[str, ...]) -> Callable[..., Any]:
    """Locate once for each state of trust, which is part of the key."""
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise _unknown(path, f"{path!r} is not a dotpath", "write package.module.Name")
    refusal = refuse_path(path)
    if refusal:
        raise reject("component", f"{path} is refused: {refusal.why}", refusal.suggestion)
    if any(part.startswith("_") for part in parts):
        raise reject("component", f"{path} is private", _public_name(path, parts))
    holder, name = _walk(path, parts)
    found = getattr(holder, name)
    why = refuse_object(found) if callable(found) else None
    if why:
        raise reject("component", f"{path} is refused: {why}")
    if not isinstance(holder, ModuleType):
        why = "a component is a class or a function of a module, not a part of a class"
        raise reject("component", f"{path} is refused: {why}")
    if not callable(found) or isinstance(found, ModuleType):
        raise reject("component", f"{path} is not a class or a function")
    return found  # type: ignore[no-any-return]  # callable was checked above


def _walk(path: str, parts: list[str]) -> tuple[Any, str]:
    """Import as many segments as are modules; return what holds the last name, and that name."""
    holder: Any = _import(path, parts[0])
    for i, part in enumerate(parts[1:], 1):
        if isinstance(holder, ModuleType) and not hasattr(holder, part):
            _import_submodule(path, ".".join(parts[: i + 1]))
        if not hasattr(holder, part):
            known = [n for n in dir(holder) if not n.startswith("_")]
            where = ".".join(parts[:i])
            raise _unknown(path, f"{where} has no {part!r}", did_you_mean(part, known))
        if i < len(parts) - 1:
            holder = getattr(holder, part)
    return holder, parts[-1]


def _import(path: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        near = did_you_mean(module, OWN_PACKAGES)
        raise _unknown(path, f"{path}: no module {error.name!r}", near) from error
    except (Exception, SystemExit) as error:
        raise _failed_import(path, module, f"{type(error).__name__}: {error}") from error


def _import_submodule(path: str, module: str) -> None:
    """Import a module if there is one of that name; a module that fails on its own account is said so."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise _failed_import(path, module, f"no module {error.name!r}") from error
    except (Exception, SystemExit) as error:
        raise _failed_import(path, module, f"{type(error).__name__}: {error}") from error


def _unknown(path: str, message: str, suggestion: str) -> RejectedError:
    """Return the mistake of a dotpath that leads to nothing."""
    return RejectedError(Mistake("component", message, suggestion, got=path))


def _failed_import(path: str, module: str, why: str) -> RejectedError:
    return reject("component", f"{path}: importing {module} failed: {why}")


def _public_name(path: str, parts: list[str]) -> str:
    """Suggest what the package above a private segment exports, importing nothing below it."""
    public = parts[: next(i for i, part in enumerate(parts) if part.startswith("_"))]
    try:
        holder, last = _walk(path, public) if len(public) > 1 else (None, "")
        package = getattr(holder, last) if last else _import(path, public[0])
    except (RejectedError, IndexError):
        package = None
    if not parts[-1].startswith("_") and callable(getattr(package, parts[-1], None)):
        return f"write {'.'.join([*public, parts[-1]])}"
    return "name what its package exports"


@functools.lru_cache(maxsize=1024)
def dotpath(found: Callable[..., Any]) -> str:
    """Return the shortest public path that leads to this very object.

    Raises:
        ValueError: It has none: a lambda, a local, a method or a private name; the message has the reason.
    """
    module = str(getattr(found, "__module__", None) or "")
    name = str(getattr(found, "__qualname__", None) or getattr(found, "__name__", repr(found)))
    if "<lambda>" in name:
        raise ValueError("a lambda has no dotpath; write it as a function of a module")
    if "<locals>" in name:
        raise ValueError(f"{name} is defined inside a function; move it to the top of its module")
    if module == "__main__":
        module = _main_stem(name)
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{name} is defined in {module!r}, which is no name of a module; rename the file")
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        prefix = ".".join(parts[:length])
        holder = sys.modules.get(prefix)
        if not any(p.startswith("_") for p in [*parts[:length], name]) and _get(holder, name) is found:
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
    """Return the module name under which the running script can be imported, if its folder is trusted."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main and str(Path(main).resolve().parent) in current_trust().folders:
        return Path(main).stem
    raise ValueError(f"{name} is defined in __main__; move it to a module that can be imported")
