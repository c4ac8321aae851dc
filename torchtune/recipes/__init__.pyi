"""For type checkers: our names, or Any if the user's project has its own package `recipes`."""

from typing import Any

from recipes import *  # noqa: F403

def __getattr__(name: str) -> Any: ...
