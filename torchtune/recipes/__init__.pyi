"""For type checkers: the names of ours, or Any where a project's `recipes` hides it from them."""

from typing import Any

from recipes import *  # noqa: F403

def __getattr__(name: str) -> Any: ...
