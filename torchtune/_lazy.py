"""Packages whose names are imported when they are first used (PEP 562)."""

import functools
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports its names when they are first used.

    Args:
        package: Its name. What it imports below `if TYPE_CHECKING:`, a name a line, are its names, and where they are.
            The call stands below the `else:` of that, so that type checkers know which names it lacks.
    """

    @functools.cache
    def homes() -> Mapping[str, str]:
        # Read as text: every call of `tune` passes here, and `ast` costs more than all else that `tune ls` does.
        with open(str(sys.modules[package].__file__), encoding="utf-8") as source:  # noqa: PTH123
            statements = [line.split() for line in source if line.startswith("    from ")]
        return {name: module for _from, module, _import, name, *_alias in statements}

    def get(name: str) -> Any:
        home = None if name.startswith("_") else homes().get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes())
