"""The signature of a component: its parameters with their types and defaults."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final, NotRequired, Required, Unpack

from attrs import frozen

MISSING: Final = inspect.Parameter.empty
"""A placeholder for a missing default or annotation."""


class _NotPassed:
    """The default of a keyword that is passed to the component only if the config sets it."""

    def __repr__(self) -> str:
        return "not passed"


NOT_PASSED: Final = _NotPassed()
"""A default that YAML cannot represent, so that a frozen config omits the keyword."""


@frozen
class Passed:
    """The arguments that a recipe passes when it instantiates a field's component, for checks before the run.

    `Passed` is part of the field's annotation: `dataset: Annotated[Component[Dataset], Passed(1)]`.
    """

    positional: int = 0
    """The number of positional arguments that the recipe passes."""
    names: tuple[str, ...] = ()
    """Keyword arguments whose values are known only at run time, such as `total_steps`."""
    fixed: tuple[tuple[str, object], ...] = ()
    """Keyword arguments that the recipe always passes, with their values; a config may set only the same value."""

    def __init__(self, positional: int = 0, *names: str, **fixed: object) -> None:
        self.__attrs_init__(positional, names, tuple(fixed.items()))  # type: ignore[attr-defined]  # from attrs

    def filled_parameters(self, params: "dict[str, Parameter]") -> set[str]:
        """Return the names of the parameters for which the recipe passes an argument."""
        first = [p.name for p in params.values() if p.positional][: self.positional]
        return {*first, *self.names, *(name for name, _ in self.fixed)}


@frozen
class MayChange:
    """An annotation for a field that a resumed run may change: `epochs: Annotated[int, MayChange()]`."""


@frozen
class Parameter:
    """One parameter of a component."""

    name: str
    type: Any
    """The resolved annotation; MISSING if absent or unresolvable."""
    default: Any
    """MISSING if the argument is required."""
    positional: bool
    """True if the argument can be passed by position."""
    only_positional: bool = False
    """True if the argument can be passed only by position."""

    @property
    def required(self) -> bool:
        """True if the parameter has no default."""
        return self.default is MISSING


@functools.lru_cache(maxsize=1024)
def _read(fn: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """Return a callable's named parameters, and whether it accepts any keyword through `**kwargs`.

    For `**kwargs: Unpack[SomeTypedDict]`, the keys of the TypedDict are named parameters.
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # a builtin without a signature
        return {}, True
    hints = type_hints(_annotated_function(fn))
    params: dict[str, Parameter] = {}
    any_keyword = False
    for name, p in signature.parameters.items():
        if p.kind is p.VAR_KEYWORD:
            options = unpacked(hints.get(name))
            any_keyword = options is None
            params |= {} if options is None else {key.name: key for key in _keyword_params(options)}
        elif p.kind is not p.VAR_POSITIONAL:
            by_position = p.kind is not p.KEYWORD_ONLY
            positional_only = p.kind is p.POSITIONAL_ONLY
            params[name] = Parameter(name, hints.get(name, MISSING), p.default, by_position, positional_only)
    return params, any_keyword


def unpacked(hint: Any) -> type | None:
    """Return the TypedDict in `Unpack[SomeTypedDict]`; None for any other annotation."""
    args = typing.get_args(hint)
    is_one = typing.get_origin(hint) is Unpack and typing.is_typeddict(args[0])
    return typing.cast("type", args[0]) if is_one else None


def _keyword_params(options: Any) -> Iterator[Parameter]:
    """Yield the keys of a TypedDict as parameters; an optional key defaults to None if allowed, else NOT_PASSED."""
    for name, hint in type_hints(options).items():
        required, inner_hint = name in options.__required_keys__, hint
        while typing.get_origin(inner_hint) in (Required, NotRequired):
            required = typing.get_origin(inner_hint) is Required
            inner_hint = typing.get_args(inner_hint)[0]
        default: Any = None if type(None) in typing.get_args(inner_hint) else NOT_PASSED
        if required:
            default = MISSING
        yield Parameter(name, inner_hint, default, positional=False)


def unpacked_in(fn: Callable[..., Any]) -> type | None:
    """Return the TypedDict that documents the keywords of a callable with `**kwargs: Unpack[...]`, or None."""
    hints = type_hints(_annotated_function(fn))
    return next(filter(None, map(unpacked, hints.values())), None)


def _annotated_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that contains the parameter annotations of `fn`, such as the constructor of a class."""
    if not inspect.isclass(fn):
        return unwrap(fn)
    init: Callable[..., Any] = fn.__init__
    return fn.__new__ if init is object.__init__ else unwrap(init)


def unwrap(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function without its decorators."""
    inner: Callable[..., Any] = inspect.unwrap(fn)
    return inner


def type_hints(fn: object) -> dict[str, Any]:
    """Return annotations as types; omit unresolvable ones, such as names imported only for type checking."""
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except Exception:  # an annotation may be any expression, so resolve each separately
        return _resolvable_hints(fn)


def _resolvable_hints(fn: object) -> dict[str, Any]:
    space = {**vars(typing), **getattr(fn, "__globals__", {})}
    hints = {}
    for name, hint in getattr(fn, "__annotations__", {}).items():
        try:
            hints[name] = eval(hint, space) if isinstance(hint, str) else hint  # noqa: S307 -- the module's own text
        except Exception:  # noqa: S112 -- treated as not annotated
            continue
    return hints


def unresolved_hints(fn: object) -> dict[str, str]:
    """Return the string annotations of a function or class that cannot be resolved, such as a misspelled name."""
    resolved = type_hints(fn)
    hints = (
        vars(fn).get("__annotations__", {}) if isinstance(fn, type) else getattr(fn, "__annotations__", {})
    )
    return {name: hint for name, hint in hints.items() if isinstance(hint, str) and name not in resolved}


def parameters(fn: Callable[..., Any]) -> dict[str, Parameter]:
    """Return a callable's named parameters, in order."""
    return _read(fn)[0]


def parameters_of(fn: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a callable's parameters; names accepted only through `**kwargs` are not included."""
    return tuple(parameters(fn))


def accepts_kwargs(fn: Callable[..., Any]) -> bool:
    """Return whether a callable accepts any keyword (`**kwargs`), so that argument names cannot be checked."""
    return _read(fn)[1]


def result_type(fn: Callable[..., Any]) -> Any:
    """Return the type of the result of `fn`: the class itself, or the return annotation; MISSING if unknown."""
    if inspect.isclass(fn):
        return fn
    return type_hints(unwrap(fn)).get("return", MISSING)
