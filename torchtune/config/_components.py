"""Reading a component from its mapping: what it names, whether its field admits it, and its arguments."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import cattrs

from torchtune._own_packages import is_own
from torchtune.config._component import COMPONENT_KEY, lazy
from torchtune.config._dotpath import locate
from torchtune.config._mistakes import Mistake, RejectedError, below, nearest, reject, unknown
from torchtune.config._signature import MISSING, Parameter, Passed, parameters, result_type, swallows_keywords
from torchtune.config._trust import is_kind, is_users_own, refuse_object
from torchtune.config._types import (
    article,
    class_name,
    generic_arguments,
    is_anything,
    is_union,
    push_down,
    storable,
    strip,
    type_name,
    yaml_repr,
)


def structure_component(
    tree: Any,
    wanted: Any,
    made: cattrs.Converter,
    passed: Passed | None = None,
    *,
    incomplete: bool = False,
) -> Any:
    """Turn a mapping with `_component_` into a lazy.

    Args:
        tree: What the config holds at this place.
        wanted: The class that the component must build; `Any` where nothing is declared.
        made: The converter that reads the arguments.
        passed: What the recipe passes at run time.
        incomplete: Leave required arguments to `instantiate`, since it is not known what will be passed.

    Raises:
        RejectedError: With every problem of the component and its arguments.
    """
    path = _named(tree, wanted)
    try:
        fn = locate(path)
        why = refuse_kind(fn, wanted)
        if why:
            raise reject("component", f"{path} {why}")
    except RejectedError as rejected:
        raise RejectedError(*(m._replace(path=()) for m in rejected.mistakes)) from rejected
    given = {name: value for name, value in tree.items() if name != COMPONENT_KEY}
    values, mistakes = _arguments(path, fn, given, made, passed or Passed())
    if not incomplete:
        mistakes += _missing(path, fn, given, passed or Passed())
    if mistakes:
        raise RejectedError(*mistakes)
    return lazy(fn, **values)


def _named(tree: Any, wanted: Any) -> str:
    """Return the dotpath in a component's mapping."""
    what = (
        f"a component that builds {article(class_name(wanted))}" if not is_anything(wanted) else "a component"
    )
    if isinstance(tree, Mapping) and COMPONENT_KEY in tree:
        named = tree[COMPONENT_KEY]
        if isinstance(named, str):
            return named
        wrong = Mistake("wrong_type", path=(COMPONENT_KEY,), expected="a dotpath", got=yaml_repr(named))
        raise RejectedError(wrong)
    got = "a mapping without it" if isinstance(tree, Mapping) else yaml_repr(tree)
    expected = f"{what}, a mapping with {COMPONENT_KEY}"
    raise RejectedError(Mistake("wrong_type", expected=expected, got=got))


def _arguments(
    path: str, fn: Callable[..., Any], given: Mapping[str, Any], made: cattrs.Converter, passed: Passed
) -> tuple[dict[str, Any], list[Mistake]]:
    """Read a component's arguments by its signature."""
    known = parameters(fn)
    filled, fixed = passed.fills(known), dict(passed.fixed)
    values: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name, tree in given.items():
        try:
            if name in fixed:
                _check_fixed(name, tree, fixed[name])
            elif name in filled:
                raise reject("component", f"the recipe passes {name!r} itself", "leave it out")
            else:
                values[name] = _argument(path, fn, name, tree, made)
        except RejectedError as rejected:
            mistakes += below(name, rejected)
    return values, mistakes + _cannot_pass(path, fn, known, passed)


def _missing(path: str, fn: Callable[..., Any], given: Mapping[str, Any], passed: Passed) -> list[Mistake]:
    known = parameters(fn)
    filled = passed.fills(known)
    meant = {nearest(name, known) for name in given if name not in known}  # a misspelt one is one mistake
    return [
        Mistake("component", f"{path} needs {p.name!r}")
        for p in known.values()
        if p.required and p.name not in given and p.name not in filled and p.name not in meant
    ]


def _argument(path: str, fn: Callable[..., Any], name: str, tree: Any, made: cattrs.Converter) -> Any:
    known = parameters(fn)
    if name in known:
        return made.structure(tree, argument_type(known[name]))
    if swallows_keywords(fn):
        return made.structure(tree, Any)
    raise RejectedError(unknown(name, known, owner=path))


def argument_type(parameter: Parameter) -> Any:
    """Return the type that an argument in a config is read by."""
    return storable(push_down(parameter.type))


def _check_fixed(name: str, tree: Any, value: object) -> None:
    if tree != value:
        raise reject("component", f"the recipe passes {name}={value!r}", "leave it out")


def _cannot_pass(
    path: str, fn: Callable[..., Any], known: Mapping[str, Parameter], passed: Passed
) -> list[Mistake]:
    """Report what the recipe passes and the component does not take."""
    if swallows_keywords(fn):
        return []
    names = [*passed.names, *(name for name, _ in passed.fixed)]
    mistakes = [
        Mistake("component", f"{path} takes no {name!r}, which the recipe passes")
        for name in names
        if name not in known
    ]
    if passed.positional > sum(p.positional for p in known.values()):
        message = f"{path} takes fewer positional arguments than the recipe passes"
        mistakes.append(Mistake("component", message))
    return mistakes


def admits(fn: Callable[..., Any], wanted: Any, passed: Passed) -> bool:
    """Tell whether a field that wants a class takes a component, and the component what the recipe passes."""
    if refuse_object(fn) or is_anything(result_type(fn)) or refuse_kind(fn, wanted):
        return False
    known = parameters(fn)
    return not inspect.isabstract(fn) and not _cannot_pass("", fn, known, passed)


def kind_mismatch(fn: Callable[..., Any], declared: Any) -> str | None:
    """Return why a field of a type such as `Component[Dataset[Example]]` does not admit a component; None: it does."""
    return refuse_kind(fn, typing.get_args(strip(declared))[0])


def item_mismatch(item: object, declared: Any) -> str | None:
    """Return why a field of a type such as `Component[Dataset[Example]]` does not admit what a dataset yields, or None.

    A dataset's class need not declare its items, so that `kind_mismatch` does not see every mistake.
    """
    wanted = typing.get_args(strip(declared))[0]
    for needed in typing.get_args(wanted):
        if not _is_one_of(type(item), needed):
            reads = f"{article(class_name(wanted))} of {type_name(needed)}"
            return f"yields {type(item).__name__}, and the recipe reads {reads}"
    return None


def refuse_kind(fn: Callable[..., Any], wanted: Any) -> str | None:
    """Judge whether a field that wants a class admits a component; return why not, or None."""
    if type(fn).__module__ == "torchtune.runs._recipe":
        return "is refused: it is a recipe, and a recipe is no component"
    result = result_type(fn)
    if is_anything(wanted):
        own_builder = is_own(fn.__module__) and is_kind(_bare(result))
        if is_users_own(fn) or (inspect.isclass(fn) and is_kind(fn)) or own_builder:
            return None
        return (
            "is refused: where no type is declared, only models, datasets, optimizers and the like may stand"
        )
    if result is MISSING:
        return "does not say what it returns; annotate its result"
    if builds(result, wanted):
        return _refuse_items(result, wanted)
    return f"builds {article(class_name(_bare(result)))}, not {article(class_name(wanted))}"


def _bare(t: Any) -> Any:
    """Return the class of a generic alias, such as `Dataset` for `Dataset[Example]`."""
    return typing.get_origin(t) or t


def builds(result: Any, wanted: Any) -> bool:
    """Tell whether an object of type `result` is one of type `wanted`."""
    if is_union(wanted):
        return any(builds(result, member) for member in typing.get_args(wanted))
    made, sought = _bare(result), _bare(wanted)
    if not isinstance(made, type) or not isinstance(sought, type):
        return False
    if getattr(sought, "_is_protocol", False):
        return all(callable(getattr(made, name, None)) for name in _protocol_methods(sought))
    return issubclass(made, sought)


def _refuse_items(result: Any, wanted: Any) -> str | None:
    """Judge what an object holds, such as a dataset's examples, as far as both types say it."""
    sought = _bare(wanted)
    if is_union(wanted) or not isinstance(sought, type) or not typing.get_args(wanted):
        return None
    given, needed = generic_arguments(result, sought), generic_arguments(wanted, sought)
    for item, needed_item in zip(given, needed, strict=False):
        if not all(_is_one_of(member, needed_item) for member in _alternatives(item)):
            return (
                f"is {article(class_name(sought))} of {type_name(item)}, and the recipe reads"
                f" {article(class_name(sought))} of {type_name(needed_item)}"
            )
    return None


def _alternatives(t: Any) -> tuple[Any, ...]:
    return typing.get_args(t) if is_union(t) else (t,)


def _is_one_of(t: Any, wanted: Any) -> bool:
    """Tell whether a type is one of several; one that says nothing may be."""
    made = _bare(t)
    if is_anything(t) or not isinstance(made, type):
        return True
    classes = [_bare(member) for member in _alternatives(wanted)]
    return any(is_anything(w) or (isinstance(w, type) and issubclass(made, w)) for w in classes)


def _protocol_methods(protocol: type) -> set[str]:
    """Return the methods that a protocol asks for; its attributes are known only once an object is built."""
    classes = [c for c in protocol.__mro__ if getattr(c, "_is_protocol", False) and c.__name__ != "Protocol"]
    methods = {name for c in classes for name, value in vars(c).items() if inspect.isfunction(value)}
    return {name for name in methods if not name.startswith("_") or name == "__call__"}
