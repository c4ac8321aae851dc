"""Errors of a config's fields, collected."""

from collections.abc import Callable, Iterator
from typing import Any

FieldErrors = Iterator[tuple[str, Exception]]
"""Fields of a config, each with the error that a run would end with."""


def errors_of(field: str, check: Callable[..., object], *arguments: Any) -> FieldErrors:
    """Call a check, and yield what it raises with the field that it is of."""
    try:
        check(*arguments)
    except (OSError, ValueError) as error:
        yield field, error
