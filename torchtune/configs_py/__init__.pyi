"""For type checkers: our names, or Any if the user's project has its own package `configs_py`."""

from typing import Any

from configs_py import *  # noqa: F403

def __getattr__(name: str) -> Any: ...
