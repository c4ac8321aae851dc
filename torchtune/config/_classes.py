"""Read a config class or section from a mapping: check fields and validators, and collect all mistakes."""

import dataclasses
import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

import attrs
import cattrs

from torchtune.config._components import argument_type
from torchtune.config._interpolation import is_reference
from torchtune.config._mistakes import (
    ConfigError,
    Location,
    Mistake,
    RejectedError,
    did_you_mean,
    mistakes_at,
    nearest,
    unknown_name,
)
from torchtune.config._signature import MayChange, parameters, type_hints, unresolved_hints
from torchtune.config._tree import as_path
from torchtune.config._types import accepts_null, describe, is_any_type, members, push_down, strip
from torchtune.config._validators import Arguments, FieldError, Rule, rules

REQUIRED: Final = object()
"""A placeholder for the default of a field that has no default."""


@attrs.frozen
class Field:
    """One field of a config class (an attrs class or a dataclass)."""

    name: str
    type: Any
    default: Any
    """The default, REQUIRED, or an `attrs.Factory`."""
    validator: Any
    attribute: Any
    may_change: bool = False
    """True if a resumed run may change it."""


@functools.cache
def fields(cls: type) -> dict[str, Field]:
    """Return the fields of a config class by name."""
    hints = type_hints(cls)
    unknown = {
        n: hint for base in cls.__mro__ for n, hint in unresolved_hints(base).items() if n not in hints
    }
    if unknown:
        location = Location(source=f"{cls.__module__}.{cls.__qualname__}")
        advice = "import the name at run time"
        messages = {name: f"its annotation {hint!r} cannot be resolved" for name, hint in unknown.items()}
        raise ConfigError(
            [Mistake("failure", message, advice, (n,), location=location) for n, message in messages.items()],
            "the config class",
        )
    if attrs.has(cls):
        entries = [(a.name, _attrs_default(a), a.validator, a) for a in attrs.fields(cls) if a.init]
    else:
        entries = [(f.name, _dataclass_default(f), None, f) for f in dataclasses.fields(cls) if f.init]
    return {
        n: Field(n, push_down(hints.get(n, Any)), default, v, a, _may_change(hints.get(n)))
        for n, default, v, a in entries
    }


def field_names(cls: type) -> tuple[str, ...]:
    """Return the names of a config class's fields, in order."""
    return tuple(fields(cls))


def required_names(cls: type) -> tuple[str, ...]:
    """Return the names of a config class's fields that have no default."""
    return tuple(name for name, f in fields(cls).items() if f.default is REQUIRED)


def _may_change(hint: Any) -> bool:
    return any(isinstance(marker, MayChange) for marker in getattr(hint, "__metadata__", ()))


def _attrs_default(attribute: "attrs.Attribute[Any]") -> Any:
    return REQUIRED if attribute.default is attrs.NOTHING else attribute.default


def _dataclass_default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return attrs.Factory(field.default_factory)
    return REQUIRED


def default_values(cls: type) -> dict[str, Any]:
    """Return the defaults of a config class, except those computed from the instance."""
    values = {}
    for name, f in fields(cls).items():
        if isinstance(f.default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
            if not f.default.takes_self:
                values[name] = f.default.factory()
        elif f.default is not REQUIRED:
            values[name] = f.default
    return values


def structure_section(tree: Any, cls: type, conv: cattrs.Converter) -> Any:
    """Convert a mapping to an object of a config class.

    Raises:
        RejectedError: The mapping is not valid; the error lists unknown keys, missing fields and invalid values.
    """
    if not isinstance(tree, Mapping):
        got = "null" if tree is None else repr(tree)
        raise RejectedError(Mistake("wrong_type", expected=describe(cls), got=got))
    known_fields = fields(cls)
    values, mistakes = _read_fields(tree, known_fields, conv)
    misspelled = {nearest(key, known_fields) for key in tree if key not in known_fields}
    mistakes += [
        missing_field(f)
        for name, f in known_fields.items()
        if f.default is REQUIRED and name not in tree and name not in misspelled
    ]
    if mistakes:
        raise RejectedError(*mistakes, *_validate_unbuilt(cls, values, known_fields))
    try:
        with attrs.validators.disabled():
            built = cls(
                **{known_fields[n].attribute.alias if attrs.has(cls) else n: v for n, v in values.items()}
            )
    except (Exception, SystemExit) as error:  # raised by the class, for example in __attrs_post_init__
        involved = error.fields if isinstance(error, FieldError) else ()
        contradiction = Mistake("contradiction", message_of(error), fields=involved)
        raise RejectedError(*_validate_unbuilt(cls, values, known_fields), contradiction) from error
    mistakes = _validate(built, {name: getattr(built, name) for name in known_fields}, known_fields)
    if mistakes:
        raise RejectedError(*mistakes)
    return built


def missing_field(field: Field) -> Mistake:
    """Return the mistake for a required field that is not set."""
    return Mistake("missing", "required", path=(field.name,), expected=describe(field.type))


def _read_fields(
    tree: Mapping[str, Any], known_fields: Mapping[str, Field], conv: cattrs.Converter
) -> tuple[dict[str, Any], list[Mistake]]:
    values: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name, value in tree.items():
        if name not in known_fields:
            mistakes.append(unknown_name(name, known_fields, (name,)))
            continue
        try:
            values[name] = conv.structure(value, known_fields[name].type)
        except RejectedError as rejected:
            mistakes += [_with_rule(known_fields[name], m) for m in mistakes_at(name, rejected)]
            continue
        mistake = converter_mistake(known_fields[name], values[name])
        if mistake:
            mistakes.append(mistake)
    return values, mistakes


def converter_mistake(field: Field, value: Any) -> Mistake | None:
    """Run a field's converter separately, so that its error is reported with the field's path."""
    conv = getattr(field.attribute, "converter", None)
    if conv is None or isinstance(conv, attrs.Converter) or is_reference(value):
        return None
    try:
        conv(value)
    except Exception as error:  # raised by the user's converter
        return Mistake("rule", message_of(error) or type(error).__name__, path=(field.name,))
    return None


def _with_rule(field: Field, mistake: Mistake) -> Mistake:
    """Return a mistake with the field's rule added to the expected type: `an int above 0`."""
    has_wrong_type = mistake.kind == "wrong_type" and mistake.path == (field.name,) and rules(field.validator)
    return mistake._replace(expected=expectation(field)) if has_wrong_type else mistake


def expectation(field: Field) -> str:
    """Return a description of a field's type and rules: `an int above 0 or null`."""
    t = strip(field.type)
    conditions = [rule.words for rule in rules(field.validator)]
    type_text = " or ".join(describe(m) for m in members(t) if m is not type(None))
    or_null = " or null" if accepts_null(t) and not is_any_type(t) else ""
    return " ".join(filter(None, [type_text, " and ".join(conditions)])) + or_null


def _validate(instance: Any, values: Mapping[str, Any], known_fields: Mapping[str, Field]) -> list[Mistake]:
    """Run the validator of every field and collect the mistakes."""
    mistakes = []
    for name, value in values.items():
        field = known_fields[name]
        if field.validator is None or is_reference(value):
            continue
        if isinstance(field.validator, Arguments):
            mistakes += [_argument_mistake(value, name, *rule) for rule in field.validator.violations(value)]
            continue
        try:
            field.validator(instance, field.attribute, value)
        except AttributeError:  # the validator reads another field, whose mistake is already reported
            continue
        except Exception as error:  # raised by a user-defined validator
            mistakes.append(_validator_mistake(field, value, error))
    return mistakes


def _validate_unbuilt(cls: type, values: dict[str, Any], known_fields: Mapping[str, Field]) -> list[Mistake]:
    return _validate(SimpleNamespace(**default_values(cls) | values), values, known_fields)


def _validator_mistake(field: Field, value: Any, error: Exception) -> Mistake:
    """Return the mistake for a value that a validator rejects, including the violated rule, if any."""
    path = (field.name,)
    violated = [rule for rule in rules(field.validator) if not rule.accepts(value)]
    if violated:
        suggestion = did_you_mean(value, violated[0].choices) if isinstance(value, str) else ""
        return Mistake("rule", "", suggestion, path, expected=expectation(field), got=repr(value))
    if isinstance(error, FieldError):
        rule_path = as_path(error.fields[0]) if error.fields else path
        rule_path = rule_path if rule_path[0] == field.name else path
        return Mistake("rule", error.message, path=rule_path, fields=error.fields)
    # In exceptions of attrs validators, the message is the first argument.
    message = str(error.args[0]) if error.args else type(error).__name__
    return Mistake("rule", _with_type(error, message), path=path)


def _argument_mistake(component: Any, field: str, name: str, rule: Rule, value: Any) -> Mistake:
    """Return the mistake for a component argument that violates its rule."""
    known_params = parameters(component.func)
    kind = describe(argument_type(known_params[name])) if name in known_params else "a value"
    return Mistake("rule", path=(field, name), expected=f"{kind} {rule.words}", got=repr(value))


def message_of(error: BaseException) -> str:
    """Return an exception's message, prefixed with its type unless it is an OSError, TypeError or ValueError."""
    return _with_type(error, str(error))


def _with_type(error: BaseException, message: str) -> str:
    explains_itself = isinstance(error, (OSError, TypeError, ValueError))
    return message if explains_itself else f"{type(error).__name__}: {message}"
