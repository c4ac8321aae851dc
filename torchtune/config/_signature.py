"""What a component takes: parameters with their types, defaults and documentation."""

import functools
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Final

from attrs import frozen

MISSING: Final = inspect.Parameter.empty
"""Stands for "no default" and "no annotation"."""


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
    """Return a callable's named parameters, and whether it swallows others with `**kwargs`."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # builtins without a signature: nothing about their arguments is known
        return {}, True
    hints = type_hints(_hinted(fn))
    found, swallows = {}, False
    for name, p in signature.parameters.items():
        if p.kind is p.VAR_KEYWORD:
            swallows = True
        elif p.kind is not p.VAR_POSITIONAL:
            by_position = p.kind is not p.KEYWORD_ONLY
            only = p.kind is p.POSITIONAL_ONLY
            found[name] = Parameter(name, hints.get(name, MISSING), p.default, by_position, only)
    return found, swallows


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


@functools.lru_cache(maxsize=1024)
def documentation(fn: Callable[..., Any]) -> dict[str, str]:
    """Return the documentation of each parameter, from the docstrings of the callable and its constructor."""
    import docstring_parser

    texts = [inspect.getdoc(fn)]
    if inspect.isclass(fn):
        texts.append(inspect.getdoc(fn.__init__))
    found: dict[str, str] = {}
    for text in filter(None, texts):
        for entry in docstring_parser.parse(text).params:
            for name in entry.arg_name.replace("*", "").split(","):
                found.setdefault(name.strip(), _plain(entry.description or ""))
    return found


def _plain(text: str) -> str:
    """Put a description on one line, without the default that help and freezing state themselves."""
    text = re.sub(r":\w+:`~?([^`<]+?)\s*(?:<[^>]*>)?`", r"`\1`", text)  # roles and links of reStructuredText
    text = re.sub(r"`([^`]+?)\s*(?:<[^>]*>)?`_+", r"\1", text)
    text = re.sub(r"\s*\([Dd]efault: (?:[^()]|\([^()]*\))*\)|Default: \S+", "", text)
    return " ".join(text.replace("``", "`").split())
