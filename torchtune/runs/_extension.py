"""Whether a finished run is longer with other limits: those of fine-tuning runs, epochs and optimizer steps."""

from collections.abc import Mapping
from typing import Any, Final

LENGTHS: Final = ("epochs", "max_steps", "max_steps_per_epoch")
"""Fields that say how long a fine-tuning run is."""


def is_any_raised(earlier: Mapping[str, Any], today: Mapping[str, Any]) -> bool:
    """Tell whether a limit is higher in a config of today; null is the highest."""
    return any(_is_raised(earlier.get(name), today.get(name)) for name in LENGTHS)


def _is_raised(earlier: Any, today: Any) -> bool:
    return earlier != today and (today is None or (isinstance(earlier, int) and earlier < today))


def reached_limit(earlier: Mapping[str, Any], today: Mapping[str, Any], step: int) -> tuple[str, ...]:
    """Return the fields of a limit that a finished run has reached already; none if it is not known to have.

    Args:
        earlier: The config with which it finished, references resolved.
        today: The config that is to extend it.
        step: The optimizer steps that it has taken.
    """
    epochs, max_steps, per_epoch = (today.get(name) for name in LENGTHS)
    if max_steps is not None:
        return ("max_steps",) if max_steps <= step else ()
    if _steps_of(epochs, per_epoch, step) <= step:
        return ("epochs", "max_steps_per_epoch")
    ended_with_epochs = earlier.get("max_steps") is None and (
        _steps_of(earlier.get("epochs"), earlier.get("max_steps_per_epoch"), step) > step
    )
    return ("epochs",) if ended_with_epochs and not _is_raised(earlier.get("epochs"), epochs) else ()


def _steps_of(epochs: Any, per_epoch: Any, step: int) -> int:
    """Return the steps to which a limit of each epoch leads; one more than were taken where there is none."""
    return step + 1 if per_epoch is None or epochs is None else int(epochs * per_epoch)


def extended_limits(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the limits of a run that was extended, by their fields: the first one, and that of each extension."""
    limits: dict[str, list[Any]] = {}
    for entry in record.get("extended", ()):
        for name in LENGTHS:
            before, after = entry[name]
            limits.setdefault(name, [before]).append(after)
    return {name: values for name, values in limits.items() if any(value != values[0] for value in values)}
