"""Read a component from its mapping: resolve its dotpath, check it against its field, and read its arguments."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import cattrs

from torchtune._bundled_packages import is_torchtune
from torchtune.config._component import COMPONENT_KEY, lazy
from torchtune.config._dotpath import locate
from torchtune.config._mistakes import Mistake, RejectedError, mistakes_at, nearest, reject, unknown_name
from torchtune.config._signature import MISSING, Parameter, Passed, accepts_kwargs, parameters, result_type
from torchtune.config._trust import is_kind, is_user_code, object_rejection
from torchtune.config._types import (
    article,
    class_name,
    generic_arguments,
    is_any_type,
    is_union,
    push_down,
    storable,
    strip,
    type_name,
    yaml_repr,
)


def structure_component(
    tree: Any,
    expected: Any,
    conv: cattrs.Converter,
    recipe_args: Passed | None = None,
    *,
    incomplete: bool = False,
) -> Any:
    """Convert a mapping with `_component_` to a lazy partial.

    Args:
        tree: The value in the config.
        expected: The class that the component must build; `Any` if the field has no type.
        conv: The converter that reads the arguments.
        recipe_args: The arguments that the recipe passes at run time.
        incomplete: Skip the check for missing arguments, which `instantiate` performs once all arguments are known.

    Raises:
        RejectedError: The component or its arguments are invalid; contains every mistake.
    """
    path = _dotpath_of(tree, expected)
    try:
        fn = locate(path)
        mismatch = result_mismatch(fn, expected)
        if mismatch:
            raise reject("component", f"{path} {mismatch}")
    except RejectedError as rejected:
        raise RejectedError(*(m._replace(path=()) for m in rejected.mistakes)) from rejected
    args = {name: value for name, value in tree.items() if name != COMPONENT_KEY}
    values, mistakes = _arguments(path, fn, args, conv, recipe_args or Passed())
    if not incomplete:
        mistakes += _missing_arguments(path, fn, args, recipe_args or Passed())
    if mistakes:
        raise RejectedError(*mistakes)
    return lazy(fn, **values)


def _dotpath_of(tree: Any, expected: Any) -> str:
    """Return the dotpath in a component's mapping; reject any other value."""
    kind = "a component"
    if not is_any_type(expected):
        kind += f" that builds {article(class_name(expected))}"
    if isinstance(tree, Mapping) and COMPONENT_KEY in tree:
        dotpath = tree[COMPONENT_KEY]
        if isinstance(dotpath, str):
            return dotpath
        mistake = Mistake("wrong_type", path=(COMPONENT_KEY,), expected="a dotpath", got=yaml_repr(dotpath))
        raise RejectedError(mistake)
    got = f"a mapping without {COMPONENT_KEY}" if isinstance(tree, Mapping) else yaml_repr(tree)
    kind += f", written as a mapping with {COMPONENT_KEY}"
    raise RejectedError(Mistake("wrong_type", expected=kind, got=got))


def _arguments(
    path: str, fn: Callable[..., Any], args: Mapping[str, Any], conv: cattrs.Converter, recipe_args: Passed
) -> tuple[dict[str, Any], list[Mistake]]:
    """Convert a component's arguments to the types in its signature, and collect all mistakes."""
    params = parameters(fn)
    recipe_params, fixed = recipe_args.filled_parameters(params), dict(recipe_args.fixed)
    values: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name, tree in args.items():
        try:
            if name in fixed:
                _check_fixed(name, tree, fixed[name])
            elif name in recipe_params:
                raise reject("component", f"the recipe passes {name!r}", "remove it")
            else:
                values[name] = _argument(path, fn, name, tree, conv)
        except RejectedError as rejected:
            mistakes += mistakes_at(name, rejected)
    return values, mistakes + _unaccepted_arguments(path, fn, params, recipe_args)


def _missing_arguments(
    path: str, fn: Callable[..., Any], args: Mapping[str, Any], recipe_args: Passed
) -> list[Mistake]:
    params = parameters(fn)
    recipe_params = recipe_args.filled_parameters(params)
    misspelled = {nearest(name, params) for name in args if name not in params}
    return [
        Mistake("component", f"{path} requires {p.name!r}")
        for p in params.values()
        if p.required and p.name not in args and p.name not in recipe_params and p.name not in misspelled
    ]


def _argument(path: str, fn: Callable[..., Any], name: str, tree: Any, conv: cattrs.Converter) -> Any:
    params = parameters(fn)
    if name in params:
        return conv.structure(tree, argument_type(params[name]))
    if accepts_kwargs(fn):
        return conv.structure(tree, Any)
    raise RejectedError(unknown_name(name, params, owner=path))


def argument_type(parameter: Parameter) -> Any:
    """Return the type that an argument in a config is checked against."""
    return storable(push_down(parameter.type))


def _check_fixed(name: str, tree: Any, value: object) -> None:
    if tree != value:
        raise reject("component", f"the recipe passes {name}={value!r}", "remove it")


def _unaccepted_arguments(
    path: str, fn: Callable[..., Any], params: Mapping[str, Parameter], recipe_args: Passed
) -> list[Mistake]:
    """Return a mistake for each argument that the recipe passes and the component does not accept."""
    if accepts_kwargs(fn):
        return []
    names = [*recipe_args.names, *(name for name, _ in recipe_args.fixed)]
    mistakes = [
        Mistake("component", f"{path} has no argument {name!r}, which the recipe passes")
        for name in names
        if name not in params
    ]
    if recipe_args.positional > sum(p.positional for p in params.values()):
        message = f"{path} accepts fewer positional arguments than the recipe passes"
        mistakes.append(Mistake("component", message))
    return mistakes


def is_accepted(fn: Callable[..., Any], expected: Any, recipe_args: Passed) -> bool:
    """Return whether a field accepts a component, and the component accepts the arguments that the recipe passes."""
    if object_rejection(fn) or is_any_type(result_type(fn)) or result_mismatch(fn, expected):
        return False
    params = parameters(fn)
    return not inspect.isabstract(fn) and not _unaccepted_arguments("", fn, params, recipe_args)


def item_type_mismatch(fn: Callable[..., Any], declared: Any) -> str | None:
    """Return the reason why a field such as `Component[Dataset[Example]]` rejects a component, or None."""
    return result_mismatch(fn, typing.get_args(strip(declared))[0])


def item_mismatch(item: object, declared: Any) -> str | None:
    """Return the reason why a field such as `Component[Dataset[Example]]` rejects an item of a dataset, or None.

    This checks datasets whose class does not declare an item type, which `item_type_mismatch` cannot check.
    """
    expected = typing.get_args(strip(declared))[0]
    for needed in typing.get_args(expected):
        if not _is_one_of(type(item), needed):
            dataset_type = f"{article(class_name(expected))} of {type_name(needed)}"
            return f"yields {type(item).__name__}, but the recipe needs {dataset_type}"
    return None


def result_mismatch(fn: Callable[..., Any], expected: Any) -> str | None:
    """Return the reason why a field of type `expected` rejects a component, based on its result type, or None."""
    if type(fn).__module__ == "torchtune.runs._recipe":
        return "is not allowed: a recipe cannot be used as a component"
    result = result_type(fn)
    if is_any_type(expected):
        is_torchtune_builder = is_torchtune(fn.__module__) and is_kind(_origin_of(result))
        if is_user_code(fn) or (inspect.isclass(fn) and is_kind(fn)) or is_torchtune_builder:
            return None
        return "is not allowed: a field without a type accepts only models, datasets, optimizers and similar components"
    if result is MISSING:
        return "has no return annotation; add one"
    if is_subtype(result, expected):
        return _item_type_mismatch(result, expected)
    return f"builds {article(class_name(_origin_of(result)))}, not {article(class_name(expected))}"


def _origin_of(t: Any) -> Any:
    """Return the class of a generic alias, such as `Dataset` for `Dataset[Example]`."""
    return typing.get_origin(t) or t


def is_subtype(result: Any, expected: Any) -> bool:
    """Return whether `result` is a subtype of `expected`."""
    if is_union(expected):
        return any(is_subtype(result, member) for member in typing.get_args(expected))
    result_class, expected_class = _origin_of(result), _origin_of(expected)
    if not isinstance(result_class, type) or not isinstance(expected_class, type):
        return False
    if getattr(expected_class, "_is_protocol", False):
        return all(callable(getattr(result_class, name, None)) for name in _protocol_methods(expected_class))
    return issubclass(result_class, expected_class)


def _item_type_mismatch(result: Any, expected: Any) -> str | None:
    """Return the reason why items of a container, such as a dataset, have the wrong type; None if valid or unknown."""
    container = _origin_of(expected)
    if is_union(expected) or not isinstance(container, type) or not typing.get_args(expected):
        return None
    actual, needed = generic_arguments(result, container), generic_arguments(expected, container)
    for item, needed_item in zip(actual, needed, strict=False):
        if not all(_is_one_of(member, needed_item) for member in _alternatives(item)):
            return (
                f"is {article(class_name(container))} of {type_name(item)}, but the recipe needs"
                f" {article(class_name(container))} of {type_name(needed_item)}"
            )
    return None


def _alternatives(t: Any) -> tuple[Any, ...]:
    return typing.get_args(t) if is_union(t) else (t,)


def _is_one_of(t: Any, expected: Any) -> bool:
    """Return whether a type is one of the expected types; True if the type is unknown."""
    cls = _origin_of(t)
    if is_any_type(t) or not isinstance(cls, type):
        return True
    classes = [_origin_of(member) for member in _alternatives(expected)]
    return any(is_any_type(c) or (isinstance(c, type) and issubclass(cls, c)) for c in classes)


def _protocol_methods(protocol: type) -> set[str]:
    """Return the methods that a protocol requires; attributes exist only on instances and are not checked."""
    classes = [c for c in protocol.__mro__ if getattr(c, "_is_protocol", False) and c.__name__ != "Protocol"]
    methods = {name for c in classes for name, value in vars(c).items() if inspect.isfunction(value)}
    return {name for name in methods if not name.startswith("_") or name == "__call__"}
