"""Stub for type checkers: torchtune's configs, or Any if the user's project has its own `configs_py` package."""

from typing import Any

from configs_py.llama2 import *  # noqa: F403

def __getattr__(name: str) -> Any: ...
