"""Validators for config fields, each with its rule in words.

A rule completes the sentence `expected <type> <rule>`: `batch_size: expected an int above 0, got -1`. They pass
over references, which are checked once they are resolved.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from attrs import Attribute, frozen

from torchtune.config._component import bound_keywords
from torchtune.config._interpolation import is_reference
from torchtune.internals import combined_validators


class FieldError(ValueError):
    """A config class's own rule is broken; raised by its validators and its `__attrs_post_init__`.

    Attributes:
        message: What is wrong and how to fix it.
        fields: The fields that the rule is about, the one that it belongs to first. A validator's mistake is reported
            at its own field if that was set, any other at the last of these that was.
    """

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message, *fields)
        self.message, self.fields = message, fields

    def __str__(self) -> str:
        return ": ".join([*self.fields[:1], self.message])


@frozen
class Rule:
    """An attrs validator that knows its rule in words."""

    words: str
    """What completes `expected <type>`, such as `above 0`."""
    holds: Callable[[Any], bool]
    """True for an admissible value."""
    choices: tuple[object, ...] = ()
    """The values that it admits, where it lists them."""
    schema: Mapping[str, Any] = MappingProxyType({})
    """The same in keywords of JSON Schema."""

    def __call__(self, _instance: object, attribute: "Attribute[Any]", value: Any) -> None:
        """Check one value; None passes, since an optional field's type says whether it may be None.

        Raises:
            FieldError: The rule does not hold; the message has the field, the rule and the value.
        """
        if not self.admits(value):
            raise FieldError(f"expected a value {self.words}, got {value!r}", attribute.name)

    def admits(self, value: Any) -> bool:
        """Tell whether the rule holds; it does for None and for what is not resolved yet."""
        if value is None or is_reference(value):
            return True
        try:
            return self.holds(value)
        except TypeError:
            return False


@frozen
class Arguments:
    """An attrs validator for a component: rules for arguments by name, for those that the config gives."""

    rules: dict[str, Rule]

    def __call__(self, _instance: object, attribute: "Attribute[Any]", value: Any) -> None:
        """Check the arguments of one component.

        Raises:
            FieldError: A rule does not hold; the message has the argument, the rule and the value.
        """
        for name, rule, argument in self.broken(value):
            message = f"expected a value {rule.words}, got {argument!r}"
            raise FieldError(message, f"{attribute.name}.{name}")

    def broken(self, component: Any) -> Iterator[tuple[str, Rule, Any]]:
        """Yield each argument whose rule does not hold, with the rule and its value."""
        given = bound_keywords(component) if isinstance(component, partial) else {}
        for name, rule in self.rules.items():
            if name in given and not rule.admits(given[name]):
                yield name, rule, given[name]


def rules(validator: Any) -> list[Rule]:
    """Return the rules that a validator is made of."""
    if isinstance(validator, Rule):
        return [validator]
    return [rule for v in combined_validators(validator) for rule in rules(v)]


def arguments(**rules: Rule) -> Arguments:
    """Demand rules of a component's arguments: `validator=arguments(lr=at_least(0))`; others are not looked at."""
    return Arguments(rules)


def above(bound: float) -> Rule:
    """Demand a finite number greater than `bound`."""
    return Rule(f"above {bound}", lambda value: bound < value < math.inf, schema={"exclusiveMinimum": bound})


def at_least(bound: float) -> Rule:
    """Demand a finite number of `bound` or more."""
    return Rule(f"of at least {bound}", lambda value: bound <= value < math.inf, schema={"minimum": bound})


def share() -> Rule:
    """Demand a number from 0 to below 1, such as a dropout rate."""
    bounds = {"minimum": 0, "exclusiveMaximum": 1}
    return Rule("from 0 to below 1", lambda value: 0 <= value < 1, schema=bounds)


def each(rule: Rule) -> Rule:
    """Demand that a rule holds for every item of a list."""
    return Rule(
        f"with each {rule.words}", lambda value: all(map(rule.holds, value)), schema={"items": rule.schema}
    )


def between(low: float, high: float) -> Rule:
    """Demand a number from `low` to `high`, both included."""
    bounds = {"minimum": low, "maximum": high}
    return Rule(f"from {low} to {high}", lambda value: low <= value <= high, schema=bounds)


def one_of(*choices: object) -> Rule:
    """Demand one of the choices; a `Literal` annotation says the same to the type checkers as well."""
    words = f"out of {', '.join(map(repr, choices))}"
    return Rule(words, lambda value: value in choices, choices, {"enum": [*choices]})


def not_empty() -> Rule:
    """Demand text or a collection with something in it."""
    bounds = {"minLength": 1, "minItems": 1, "minProperties": 1}
    return Rule("that is not empty", lambda value: len(value) > 0, schema=bounds)
