"""Stub for type checkers: torchtune's recipes, or Any if the user's project has its own `recipes` package."""

from typing import Any

from recipes.alpaca_generate import *  # noqa: F403

def __getattr__(name: str) -> Any: ...
