"""Errors of the device of `tests.gpu.device`."""

from collections.abc import Callable
from typing import Any

_failures: list[RuntimeError] = []
"""Errors in the current backward pass."""
_backward_passes: list[object] = []
"""The backward passes that are running, one inside the other."""


def fail(message: str) -> None:
    """Raise RuntimeError; in a backward pass, raise it at the end.

    An exception in a backward pass on a device whose guard is written in Python aborts the process (torch 2.13).
    """
    error = RuntimeError(message)
    if not _backward_passes:
        raise error
    _failures.append(error)


def with_failures(run_backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs a backward pass and raises its first error."""

    def run(*args: Any, **kwargs: Any) -> Any:
        _backward_passes.append(args)
        try:
            result = run_backward(*args, **kwargs)
        finally:
            _backward_passes.pop()
        if _failures:
            failure = _failures[0]
            _failures.clear()
            raise failure
        return result

    return run


def require(operator: object, rule: str, holds: bool) -> None:
    """Fail unless a rule of CUDA holds for a call of an operator."""
    if not holds:
        fail(f"{operator}: the device requires that {rule}")
