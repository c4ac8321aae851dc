"""Validators for config fields, each with a textual description of its rule.

Messages have the form `expected <type> <rule>`: `batch_size: expected an int above 0, got -1`. References are
checked after they are resolved.
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
    """A value violates a rule of a config class; raised by its validators and its `__attrs_post_init__`.

    Attributes:
        message: The problem and how to fix it.
        fields: The fields that the rule involves, starting with a validator's own field. A validator's mistake is
            reported at that field if it is set; any other mistake is reported at the field that was set last.
    """

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message, *fields)
        self.message, self.fields = message, fields

    def __str__(self) -> str:
        return ": ".join([*self.fields[:1], self.message])


@frozen
class Rule:
    """An attrs validator with a description of its rule."""

    words: str
    """The rule in words, phrased to follow `expected <type>`, such as `above 0`."""
    holds: Callable[[Any], bool]
    """Returns True for a valid value."""
    choices: tuple[object, ...] = ()
    """The valid values, if the rule lists them."""
    schema: Mapping[str, Any] = MappingProxyType({})
    """The rule as JSON Schema keywords."""

    def __call__(self, _instance: object, attribute: "Attribute[Any]", value: Any) -> None:
        """Check a value. None is accepted, because the field's type determines whether null is valid.

        Raises:
            FieldError: The value violates the rule. The message contains the field, the rule and the value.
        """
        if not self.accepts(value):
            raise FieldError(f"expected a value {self.words}, got {value!r}", attribute.name)

    def accepts(self, value: Any) -> bool:
        """Return whether a value is valid; always True for None and for references."""
        if value is None or is_reference(value):
            return True
        try:
            return self.holds(value)
        except TypeError:
            return False


@frozen
class Arguments:
    """An attrs validator for a component: rules by argument name, for the arguments that the config sets."""

    rules: dict[str, Rule]

    def __call__(self, _instance: object, attribute: "Attribute[Any]", value: Any) -> None:
        """Check a component's arguments.

        Raises:
            FieldError: An argument violates its rule. The message contains the argument, the rule and the value.
        """
        for name, rule, argument in self.violations(value):
            message = f"expected a value {rule.words}, got {argument!r}"
            raise FieldError(message, f"{attribute.name}.{name}")

    def violations(self, component: Any) -> Iterator[tuple[str, Rule, Any]]:
        """Yield each argument that violates its rule, with the rule and the value."""
        arguments_set = bound_keywords(component) if isinstance(component, partial) else {}
        for name, rule in self.rules.items():
            if name in arguments_set and not rule.accepts(arguments_set[name]):
                yield name, rule, arguments_set[name]


def rules(validator: Any) -> list[Rule]:
    """Return the rules that a validator consists of."""
    if isinstance(validator, Rule):
        return [validator]
    return [rule for v in combined_validators(validator) for rule in rules(v)]


def arguments(**rules: Rule) -> Arguments:
    """Return a validator for a component's arguments: `validator=arguments(lr=at_least(0))`."""
    return Arguments(rules)


def above(bound: float) -> Rule:
    """Require a finite number greater than `bound`."""
    return Rule(f"above {bound}", lambda value: bound < value < math.inf, schema={"exclusiveMinimum": bound})


def at_least(bound: float) -> Rule:
    """Require a finite number greater than or equal to `bound`."""
    return Rule(f"of at least {bound}", lambda value: bound <= value < math.inf, schema={"minimum": bound})


def fraction() -> Rule:
    """Require a number of at least 0 and below 1, such as a dropout rate."""
    bounds = {"minimum": 0, "exclusiveMaximum": 1}
    return Rule("at least 0 and below 1", lambda value: 0 <= value < 1, schema=bounds)


def each(rule: Rule) -> Rule:
    """Require every item of a list to satisfy a rule."""
    words = f"whose items are each {rule.words.removeprefix('that is ')}"
    return Rule(words, lambda value: all(map(rule.holds, value)), schema={"items": rule.schema})


def between(low: float, high: float) -> Rule:
    """Require a number from `low` to `high`, inclusive."""
    bounds = {"minimum": low, "maximum": high}
    return Rule(f"from {low} to {high}", lambda value: low <= value <= high, schema=bounds)


def one_of(*choices: object) -> Rule:
    """Require one of the choices. Prefer a `Literal` annotation, which type checkers also check."""
    words = f"that is one of {', '.join(map(repr, choices))}"
    return Rule(words, lambda value: value in choices, choices, {"enum": [*choices]})


def not_empty() -> Rule:
    """Require a non-empty string or collection."""
    bounds = {"minLength": 1, "minItems": 1, "minProperties": 1}
    return Rule("that is not empty", lambda value: len(value) > 0, schema=bounds)
