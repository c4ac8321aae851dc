"""PyTorch-native LLM fine-tuning in which a run is a typed Python object.

Importing this package is fast, because each subpackage is imported on first use. `torchtune.recipes` and
`torchtune.configs_py` always refer to torchtune's packages `recipes` and `configs_py`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from torchtune._bundled_packages import BundledPackageFinder

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

sys.meta_path.insert(0, BundledPackageFinder)

if not TYPE_CHECKING:  # hidden from type checkers, so that they report misspelled subpackages

    def __getattr__(name: str) -> ModuleType:
        """Import a subpackage on first use (PEP 562)."""
        if name in (*__all__, "recipes", "configs_py"):
            return import_module(f"torchtune.{name}")
        raise AttributeError(f"module 'torchtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
