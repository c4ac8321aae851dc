"""What a component takes: parameters with their types, defaults and documentation."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final, NotRequired, Required, Unpack

from attrs import frozen

MISSING: Final = inspect.Parameter.empty
"""Stands for "no default" and "no annotation"."""


class _NotPassed:
    """The default of a keyword that a component is called without unless the config sets it."""

    def __repr__(self) -> str:
        return "not passed"


NOT_PASSED: Final = _NotPassed()
"""No value of YAML stands for it, so that a frozen config leaves the keyword out."""


@frozen
class Passed:
    """What a recipe passes when it instantiates a field's component, so that it can be checked before the run.

    It stands in the field's annotation: `dataset: Annotated[Component[Dataset], Passed(1)]`.
    """

    positional: int = 0
    """How many positional arguments the recipe passes; they fill the component's first parameters."""
    names: tuple[str, ...] = ()
    """Keyword arguments whose values are known only in the run, such as `total_steps`."""
    fixed: tuple[tuple[str, object], ...] = ()
    """Keyword arguments that the recipe always passes with this value; a config may repeat it, not change it."""

    def __init__(self, positional: int = 0, *names: str, **fixed: object) -> None:
        self.__attrs_init__(positional, names, tuple(fixed.items()))  # type: ignore[attr-defined]  # made by attrs

    def fills(self, params: "dict[str, Parameter]") -> set[str]:
        """Return the names of the parameters that the recipe fills."""
        first = [p.name for p in params.values() if p.positional][: self.positional]
        return {*first, *self.names, *(name for name, _ in self.fixed)}


@frozen
class MayChange:
    """Marks a field that may differ when an unfinished run is continued: `epochs: Annotated[int, MayChange()]`."""


@frozen
class Parameter:
    """One parameter of a component."""

    name: str
    type: Any
    """The annotation, resolved; MISSING where there is none or it does not resolve."""
    default: Any
    """MISSING where the argument is required."""
    positional: bool
    """True where it can be filled by position."""
    only_positional: bool = False
    """True where it can be filled in no other way."""

    @property
    def required(self) -> bool:
        """True where there is no default."""
        return self.default is MISSING


@functools.lru_cache(maxsize=1024)
def _read(fn: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """Return a callable's named parameters, and whether it takes any others with `**kwargs`.

    `**kwargs: Unpack[SomeTypedDict]` are named parameters: the keys of the TypedDict.
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # builtins without a signature: nothing about their arguments is known
        return {}, True
    hints = type_hints(_hinted(fn))
    found: dict[str, Parameter] = {}
    swallows = False
    for name, p in signature.parameters.items():
        if p.kind is p.VAR_KEYWORD:
            options = unpacked(hints.get(name))
            swallows = options is None
            found |= {} if options is None else {key.name: key for key in _keys(options)}
        elif p.kind is not p.VAR_POSITIONAL:
            by_position = p.kind is not p.KEYWORD_ONLY
            only = p.kind is p.POSITIONAL_ONLY
            found[name] = Parameter(name, hints.get(name, MISSING), p.default, by_position, only)
    return found, swallows


def unpacked(hint: Any) -> type | None:
    """Return the TypedDict in `Unpack[SomeTypedDict]`; None for any other annotation."""
    args = typing.get_args(hint)
    is_one = typing.get_origin(hint) is Unpack and typing.is_typeddict(args[0])
    return typing.cast("type", args[0]) if is_one else None


def _keys(options: Any) -> Iterator[Parameter]:
    """Yield the keys of a TypedDict as keyword parameters; what need not be passed is None, or else left out."""
    for name, hint in type_hints(options).items():
        required, bare = name in options.__required_keys__, hint
        while typing.get_origin(bare) in (Required, NotRequired):
            required = typing.get_origin(bare) is Required
            bare = typing.get_args(bare)[0]
        default: Any = None if type(None) in typing.get_args(bare) else NOT_PASSED
        if required:
            default = MISSING
        yield Parameter(name, bare, default, positional=False)


def unpacked_in(fn: Callable[..., Any]) -> type | None:
    """Return the TypedDict that documents the keywords of a callable with `**kwargs: Unpack[...]`, or None."""
    hints = type_hints(_hinted(fn))
    return next(filter(None, map(unpacked, hints.values())), None)


def _hinted(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function whose annotations describe the parameters of `fn`."""
    if not inspect.isclass(fn):
        return unwrap(fn)
    own_init: Callable[..., Any] = fn.__init__
    return fn.__new__ if own_init is object.__init__ else unwrap(own_init)


def unwrap(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function below its decorators."""
    inner: Callable[..., Any] = inspect.unwrap(fn)
    return inner


def type_hints(fn: object) -> dict[str, Any]:
    """Return annotations as types, skipping those that do not resolve, such as names imported for checkers only."""
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except Exception:  # an annotation may hold any expression; each is then tried alone
        return _resolvable_hints(fn)


def _resolvable_hints(fn: object) -> dict[str, Any]:
    space = {**vars(typing), **getattr(fn, "__globals__", {})}
    found = {}
    for name, hint in getattr(fn, "__annotations__", {}).items():
        try:
            found[name] = eval(hint, space) if isinstance(hint, str) else hint  # noqa: S307 -- the module's own text
        except Exception:  # noqa: S112 -- an unknown annotation is no annotation
            continue
    return found


def unresolved(fn: object) -> dict[str, str]:
    """Return the annotations of a function or class that are text and lead to nothing, such as a misspelt name."""
    known = type_hints(fn)
    own = vars(fn).get("__annotations__", {}) if isinstance(fn, type) else getattr(fn, "__annotations__", {})
    return {name: hint for name, hint in own.items() if isinstance(hint, str) and name not in known}


def parameters(fn: Callable[..., Any]) -> dict[str, Parameter]:
    """Return a callable's named parameters in order."""
    return _read(fn)[0]


def parameters_of(fn: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a callable's parameters, those that `**kwargs` takes not among them."""
    return tuple(parameters(fn))


def swallows_keywords(fn: Callable[..., Any]) -> bool:
    """Tell whether a callable takes any keyword (`**kwargs`), which leaves its arguments unchecked."""
    return _read(fn)[1]


def result_type(fn: Callable[..., Any]) -> Any:
    """Return what calling `fn` gives: the class itself, or a function's annotated result; MISSING if unknown."""
    if inspect.isclass(fn):
        return fn
    return type_hints(unwrap(fn)).get("return", MISSING)
