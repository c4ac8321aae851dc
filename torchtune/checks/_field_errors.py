"""Collect the errors that checks raise for config fields."""

from collections.abc import Callable, Iterator
from typing import Any

FieldErrors = Iterator[tuple[str, Exception]]
"""Config fields, each with the error that a run would raise."""


def errors_of(field: str, check: Callable[..., object], *arguments: Any) -> FieldErrors:
    """Call a check; if it raises an error, yield the field and the error."""
    try:
        check(*arguments)
    except (OSError, ValueError) as error:
        yield field, error
