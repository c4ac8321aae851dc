"""Reading a config class, or a section of one, from its mapping: fields, validators, and all mistakes at once."""

import dataclasses
import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

import attrs
import cattrs

from torchtune.config._components import argument_type
from torchtune.config._hints import suggestion
from torchtune.config._interpolation import is_reference
from torchtune.config._mistakes import (
    ConfigError,
    Mistake,
    Problem,
    RejectedError,
    below,
    did_you_mean,
    nearest,
    reject,
)
from torchtune.config._signature import MayChange, parameters, type_hints, unresolved
from torchtune.config._types import describe, is_section, push_down, takes_none
from torchtune.config._validators import Arguments, Rule, rules

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
    if lost := {n: hint for base in cls.__mro__ for n, hint in unresolved(base).items() if n not in hints}:
        where = f"{cls.__module__}.{cls.__qualname__}"
        raise ConfigError(
            [
                Mistake(
                    where, name, f"its annotation {hint!r} leads to nothing; import what it names at run time"
                )
                for name, hint in lost.items()
            ],
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
        raise reject(f"expected {describe(cls)}, got {'null' if tree is None else repr(tree)}")
    known = fields(cls)
    values, problems = _read_fields(tree, known, made)
    meant = {nearest(key, known) for key in tree if key not in known}  # a misspelt one is one mistake
    problems += [
        Problem((name,), f"is required: {describe(f.type)}; write {name}=...")
        for name, f in known.items()
        if f.default is REQUIRED and name not in tree and name not in meant
    ]
    if problems:
        raise RejectedError(
            *problems, *_validate(SimpleNamespace(**default_values(cls) | values), values, known)
        )
    try:
        with attrs.validators.disabled():
            built = cls(
                **{known[name].attribute.alias if attrs.has(cls) else name: v for name, v in values.items()}
            )
    except (Exception, SystemExit) as error:  # of the class's own code, such as its __attrs_post_init__
        failed = _validate(SimpleNamespace(**default_values(cls) | values), values, known)
        raise RejectedError(*failed, Problem((), said(error))) from error
    if failed := _validate(built, {name: getattr(built, name) for name in known}, known):
        raise RejectedError(*failed)
    return built


def _read_fields(
    tree: Mapping[str, Any], known: Mapping[str, Field], made: cattrs.Converter
) -> tuple[dict[str, Any], list[Problem]]:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in tree.items():
        if name not in known:
            problems.append(Problem((name,), f"no {name!r}{suggestion(name, known)}"))
            continue
        try:
            values[name] = made.structure(value, known[name].type)
            if why := refused_by_converter(known[name], values[name]):
                raise reject(why)
        except RejectedError as rejected:
            problems += _with_rule(known[name], below(name, rejected))
    return values, problems


def refused_by_converter(field: Field, value: Any) -> str:
    """Run a field's converter alone, so that what it refuses has a path; return why it does, or nothing."""
    converter = getattr(field.attribute, "converter", None)
    if converter is None or isinstance(converter, attrs.Converter) or is_reference(value):
        return ""
    try:
        converter(value)
    except Exception as error:  # of the class's own code
        return said(error) or type(error).__name__
    return ""


def _with_rule(field: Field, problems: list[Problem]) -> list[Problem]:
    """Complete `expected an int` with the field's rule, such as `above 0`."""
    words = [rule.words for rule in rules(field.validator)]
    if not words or len(problems) != 1 or problems[0].path != (field.name,):
        return problems
    plain = f"expected {describe(field.type)},"
    return [Problem(p.path, p.message.replace(plain, f"expected {expectation(field)},")) for p in problems]


def expectation(field: Field) -> str:
    """Name a field's type with its rules to a person: `an int above 0 or null`."""
    bare = describe(field.type).removesuffix(" or null")
    words = " and ".join(rule.words for rule in rules(field.validator))
    null = " or null" if takes_none(field.type) and bare != "a value" else ""
    return " ".join(filter(None, [bare, words])) + null


def _validate(instance: Any, values: Mapping[str, Any], known: Mapping[str, Field]) -> list[Problem]:
    """Run the validator of every field, collecting what fails."""
    problems = []
    for name, value in values.items():
        field = known[name]
        if field.validator is None or is_reference(value) or is_section(type(value)):
            continue
        if isinstance(field.validator, Arguments):
            problems += [_out_of_range(value, name, *broken) for broken in field.validator.broken(value)]
            continue
        try:
            field.validator(instance, field.attribute, value)
        except AttributeError:  # the validator looks at another field, which has a mistake of its own
            continue
        except Exception as error:  # of a validator of the class's own
            problems.append(Problem((name,), _refused(field, value, error)))
    return problems


def _refused(field: Field, value: Any, error: Exception) -> str:
    """Say why a validator refuses a value: by its rules in words, where one of them is broken."""
    broken = [rule for rule in rules(field.validator) if not rule.admits(value)]
    if broken:
        near = did_you_mean(value, broken[0].choices) if isinstance(value, str) else ""
        return f"expected {expectation(field)}, got {value!r}{near}"
    message = _first_argument(error).removeprefix(
        f"{field.attribute.name}: "
    )  # which stands before it anyway
    return message if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: {message}"


def _out_of_range(component: Any, field: str, name: str, rule: Rule, value: Any) -> Problem:
    """Say what a component's argument may be."""
    known = parameters(component.func)
    kind = describe(argument_type(known[name])) if name in known else "a value"
    return Problem((field, name), f"expected {kind} {rule.words}, got {value!r}")


def said(error: BaseException) -> str:
    """Return an exception's message, with its type where that says more than that a value is wrong."""
    return str(error) if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: {error}"


def _first_argument(error: Exception) -> str:
    """Return an exception's message; attrs' own validators carry further arguments behind it."""
    return str(error.args[0]) if error.args else type(error).__name__
