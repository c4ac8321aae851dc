"""Reading a config class, or a section of one, from its mapping: fields, validators, and all mistakes at once."""

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
    below,
    did_you_mean,
    nearest,
    unknown,
)
from torchtune.config._signature import MayChange, parameters, type_hints, unresolved
from torchtune.config._tree import as_path
from torchtune.config._types import describe, is_anything, members, push_down, strip, takes_none
from torchtune.config._validators import Arguments, FieldError, Rule, rules

REQUIRED: Final = object()
"""Stands for "no default"."""


@attrs.frozen
class Field:
    """One field of a config class, attrs or dataclass alike."""

    name: str
    type: Any
    default: Any
    """The default, REQUIRED where there is none, or an `attrs.Factory`."""
    validator: Any
    attribute: Any
    may_change: bool = False
    """True where a continued run may differ in it."""


@functools.cache
def fields(cls: type) -> dict[str, Field]:
    """Return the fields of a config class by name."""
    hints = type_hints(cls)
    lost = {n: hint for base in cls.__mro__ for n, hint in unresolved(base).items() if n not in hints}
    if lost:
        where = Location(source=f"{cls.__module__}.{cls.__qualname__}")
        advice = "import what it names at run time"
        wrong = {name: f"its annotation {hint!r} leads to nothing" for name, hint in lost.items()}
        raise ConfigError(
            [Mistake("failure", why, advice, (n,), location=where) for n, why in wrong.items()],
            "the config class",
        )
    if attrs.has(cls):
        found = [(a.name, _attrs_default(a), a.validator, a) for a in attrs.fields(cls) if a.init]
    else:
        found = [(f.name, _dataclass_default(f), None, f) for f in dataclasses.fields(cls) if f.init]
    return {
        n: Field(n, push_down(hints.get(n, Any)), default, v, a, _may_change(hints.get(n)))
        for n, default, v, a in found
    }


def field_names(cls: type) -> tuple[str, ...]:
    """Return the names of a config class's fields, in their order."""
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
    """Return the defaults of a config class, leaving out the fields that have none or need the object itself."""
    found = {}
    for name, f in fields(cls).items():
        if isinstance(f.default, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
            if not f.default.takes_self:
                found[name] = f.default.factory()
        elif f.default is not REQUIRED:
            found[name] = f.default
    return found


def structure_section(tree: Any, cls: type, made: cattrs.Converter) -> Any:
    """Turn a mapping into an object of a config class.

    Raises:
        RejectedError: With every unknown key, missing field, wrong value and failed validator.
    """
    if not isinstance(tree, Mapping):
        got = "null" if tree is None else repr(tree)
        raise RejectedError(Mistake("wrong_type", expected=describe(cls), got=got))
    known = fields(cls)
    values, mistakes = _read_fields(tree, known, made)
    meant = {nearest(key, known) for key in tree if key not in known}  # a misspelt one is one mistake
    mistakes += [
        missing(f)
        for name, f in known.items()
        if f.default is REQUIRED and name not in tree and name not in meant
    ]
    if mistakes:
        raise RejectedError(*mistakes, *_validate_unbuilt(cls, values, known))
    try:
        with attrs.validators.disabled():
            built = cls(
                **{known[name].attribute.alias if attrs.has(cls) else name: v for name, v in values.items()}
            )
    except (Exception, SystemExit) as error:  # of the class's own code, such as its __attrs_post_init__
        about = error.fields if isinstance(error, FieldError) else ()
        found = Mistake("contradiction", message_of(error), fields=about)
        raise RejectedError(*_validate_unbuilt(cls, values, known), found) from error
    failed = _validate(built, {name: getattr(built, name) for name in known}, known)
    if failed:
        raise RejectedError(*failed)
    return built


def missing(field: Field) -> Mistake:
    """Return the mistake of a required field that is not set."""
    return Mistake("missing", "is required", path=(field.name,), expected=describe(field.type))


def _read_fields(
    tree: Mapping[str, Any], known: Mapping[str, Field], made: cattrs.Converter
) -> tuple[dict[str, Any], list[Mistake]]:
    values: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name, value in tree.items():
        if name not in known:
            mistakes.append(unknown(name, known, (name,)))
            continue
        try:
            values[name] = made.structure(value, known[name].type)
        except RejectedError as rejected:
            mistakes += [_with_rule(known[name], m) for m in below(name, rejected)]
            continue
        refused = refused_by_converter(known[name], values[name])
        if refused:
            mistakes.append(refused)
    return values, mistakes


def refused_by_converter(field: Field, value: Any) -> Mistake | None:
    """Run a field's converter alone, so that what it refuses has a path."""
    converter = getattr(field.attribute, "converter", None)
    if converter is None or isinstance(converter, attrs.Converter) or is_reference(value):
        return None
    try:
        converter(value)
    except Exception as error:  # of the class's own code
        return Mistake("rule", message_of(error) or type(error).__name__, path=(field.name,))
    return None


def _with_rule(field: Field, mistake: Mistake) -> Mistake:
    """Complete the type that is expected of a field with the field's rule, such as `an int above 0`."""
    is_of_field = mistake.kind == "wrong_type" and mistake.path == (field.name,) and rules(field.validator)
    return mistake._replace(expected=expectation(field)) if is_of_field else mistake


def expectation(field: Field) -> str:
    """Name a field's type with its rules to a person: `an int above 0 or null`."""
    t = strip(field.type)
    words = [rule.words for rule in rules(field.validator)]
    bare = " or ".join(describe(m) for m in members(t) if m is not type(None))
    null = " or null" if takes_none(t) and not is_anything(t) else ""
    return " ".join(filter(None, [bare, " and ".join(words)])) + null


def _validate(instance: Any, values: Mapping[str, Any], known: Mapping[str, Field]) -> list[Mistake]:
    """Run the validator of every field, collecting what fails."""
    mistakes = []
    for name, value in values.items():
        field = known[name]
        if field.validator is None or is_reference(value):
            continue
        if isinstance(field.validator, Arguments):
            mistakes += [_out_of_range(value, name, *broken) for broken in field.validator.broken(value)]
            continue
        try:
            field.validator(instance, field.attribute, value)
        except AttributeError:  # the validator looks at another field, which has a mistake of its own
            continue
        except Exception as error:  # of a validator of the class's own
            mistakes.append(_refused(field, value, error))
    return mistakes


def _validate_unbuilt(cls: type, values: dict[str, Any], known: Mapping[str, Field]) -> list[Mistake]:
    return _validate(SimpleNamespace(**default_values(cls) | values), values, known)


def _refused(field: Field, value: Any, error: Exception) -> Mistake:
    """Return why a validator refuses a value: the rule in words, where one of them is broken."""
    path = (field.name,)
    broken = [rule for rule in rules(field.validator) if not rule.admits(value)]
    if broken:
        near = did_you_mean(value, broken[0].choices) if isinstance(value, str) else ""
        return Mistake("rule", "", near, path, expected=expectation(field), got=repr(value))
    if isinstance(error, FieldError):
        of_section = as_path(error.fields[0]) if error.fields else path
        within = of_section if of_section[0] == field.name else path
        return Mistake("rule", error.message, path=within, fields=error.fields)
    # attrs' own validators carry further arguments after the message.
    message = str(error.args[0]) if error.args else type(error).__name__
    return Mistake("rule", _with_type(error, message), path=path)


def _out_of_range(component: Any, field: str, name: str, rule: Rule, value: Any) -> Mistake:
    """Say what a component's argument may be."""
    known = parameters(component.func)
    kind = describe(argument_type(known[name])) if name in known else "a value"
    return Mistake("rule", path=(field, name), expected=f"{kind} {rule.words}", got=repr(value))


def message_of(error: BaseException) -> str:
    """Return an exception's message, with its type where that says more than that a value is wrong."""
    return _with_type(error, str(error))


def _with_type(error: BaseException, message: str) -> str:
    explains_itself = isinstance(error, (OSError, TypeError, ValueError))
    return message if explains_itself else f"{type(error).__name__}: {message}"
