"""PyTorch-native LLM fine-tuning in which a run is a typed Python object.

Importing this package loads nothing heavy: each subpackage is imported when it is first named.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "config",
    "data",
    "datasets",
    "files",
    "formats",
    "generation",
    "internals",
    "migrate",
    "models",
    "modules",
    "plots",
    "runs",
    "tokenizers",
    "training",
    "utils",
]


if not TYPE_CHECKING:  # type checkers find subpackages by themselves, and then know a misspelt one

    def __getattr__(name: str) -> ModuleType:
        """Import a subpackage when it is first named (PEP 562)."""
        if name in __all__:
            return import_module(f"torchtune.{name}")
        raise AttributeError(f"module 'torchtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
