"""Validators for config fields, each with its rule in words.

A rule completes the sentence `expected <type> <rule>`: `batch_size: expected an int above 0, got -1`. They pass
over references, which are checked once they are resolved.
"""

from collections.abc import Callable
from typing import Any

from attrs import Attribute, frozen

from torchtune.config._interpolation import is_reference


@frozen
class Rule:
    """An attrs validator that knows its rule in words."""

    words: str
    """What completes `expected <type>`, such as `above 0`."""
    holds: Callable[[Any], bool]
    """True for an admissible value."""

    def __call__(self, _instance: object, attribute: "Attribute[Any]", value: Any) -> None:
        """Check one value; None passes, since an optional field's type says whether it may be None.

        Raises:
            ValueError: The rule does not hold; the message has the field, the rule and the value.
        """
        if value is None or is_reference(value):
            return
        try:
            ok = self.holds(value)
        except TypeError:
            ok = False
        if not ok:
            raise ValueError(f"{attribute.name}: expected a value {self.words}, got {value!r}")


def above(bound: float) -> Rule:
    """Demand a number greater than `bound`."""
    return Rule(f"above {bound}", lambda value: value > bound)


def at_least(bound: float) -> Rule:
    """Demand a number of `bound` or more."""
    return Rule(f"of at least {bound}", lambda value: value >= bound)


def between(low: float, high: float) -> Rule:
    """Demand a number from `low` to `high`, both included."""
    return Rule(f"from {low} to {high}", lambda value: low <= value <= high)


def one_of(*choices: object) -> Rule:
    """Demand one of the choices; a `Literal` annotation says the same to the type checkers as well."""
    return Rule(f"out of {', '.join(map(repr, choices))}", lambda value: value in choices)


def not_empty() -> Rule:
    """Demand text or a collection with something in it."""
    return Rule("that is not empty", lambda value: len(value) > 0)
