"""Import the names that a package exports on first use (PEP 562)."""

import functools
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that imports its names on first use.

    Args:
        package: The package's name. It exports the names that it imports below `if TYPE_CHECKING:`, one per line. Call
            this function below the matching `else:`, so that type checkers report missing names.
    """

    @functools.cache
    def exporting_modules() -> Mapping[str, str]:
        # The file is read as text because every call of `tune` runs this function, and parsing it with `ast` would take
        # longer than everything else in `tune ls`.
        with open(str(sys.modules[package].__file__), encoding="utf-8") as source:  # noqa: PTH123
            statements = [line.split() for line in source if line.startswith("    from ")]
        return {name: module for _from, module, _import, name, *_alias in statements}

    def get(name: str) -> Any:
        module = None if name.startswith("_") else exporting_modules().get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(exporting_modules())
