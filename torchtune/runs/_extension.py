"""Check whether new limits (epochs, optimizer steps) extend a finished fine-tuning run."""

from collections.abc import Mapping
from typing import Any, Final

LIMIT_FIELDS: Final = ("epochs", "max_steps", "max_steps_per_epoch")
"""Fields that limit the length of a fine-tuning run."""


def any_limit_increased(previous: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Return whether any limit is higher in the current config; null means no limit."""
    return any(_is_increased(previous.get(name), current.get(name)) for name in LIMIT_FIELDS)


def _is_increased(previous: Any, current: Any) -> bool:
    return previous != current and (current is None or (isinstance(previous, int) and previous < current))


def reached_limit(previous: Mapping[str, Any], current: Mapping[str, Any], step: int) -> tuple[str, ...]:
    """Return the fields whose limit a finished run is known to have reached, or an empty tuple.

    Args:
        previous: The config of the finished run, with references resolved.
        current: The config for the extension.
        step: The number of optimizer steps of the finished run.
    """
    epochs, max_steps, per_epoch = (current.get(name) for name in LIMIT_FIELDS)
    if max_steps is not None:
        return ("max_steps",) if max_steps <= step else ()
    if _steps_of(epochs, per_epoch, step) <= step:
        return ("epochs", "max_steps_per_epoch")
    ended_with_epochs = previous.get("max_steps") is None and (
        _steps_of(previous.get("epochs"), previous.get("max_steps_per_epoch"), step) > step
    )
    return ("epochs",) if ended_with_epochs and not _is_increased(previous.get("epochs"), epochs) else ()


def _steps_of(epochs: Any, per_epoch: Any, step: int) -> int:
    """Return the total number of steps that a per-epoch limit allows; `step + 1` without such a limit."""
    return step + 1 if per_epoch is None or epochs is None else int(epochs * per_epoch)


def extended_limits(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the limits of an extended run by field: the original value, then the value for each extension."""
    limits: dict[str, list[Any]] = {}
    for entry in record.get("extended", ()):
        for name in LIMIT_FIELDS:
            before, after = entry[name]
            limits.setdefault(name, [before]).append(after)
    return {name: values for name, values in limits.items() if any(value != values[0] for value in values)}
