"""Packages whose names are imported when they are first used (PEP 562)."""

import ast
import functools
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports its names when they are first used.

    Args:
        package: Its name. What it imports below `if TYPE_CHECKING:` are its names, and where they are. The call stands
            below the `else:` of that, so that type checkers know which names it lacks.
    """

    @functools.cache
    def homes() -> Mapping[str, str]:
        source = Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8")
        guarded = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
        imports = [node for block in guarded for node in block.body if isinstance(node, ast.ImportFrom)]
        return {alias.name: str(node.module) for node in imports for alias in node.names}

    def get(name: str) -> Any:
        home = None if name.startswith("_") else homes().get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes())
