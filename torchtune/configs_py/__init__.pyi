"""For type checkers: the names of ours, or Any where a project's `configs_py` hides it from them."""

from typing import Any

from configs_py import *  # noqa: F403

def __getattr__(name: str) -> Any: ...
