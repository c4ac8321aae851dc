"""What docstrings say about parameters and fields."""

import ast
import functools
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Callable
from typing import Any

from torchtune.config._signature import unpacked_in
from torchtune.config._types import is_section


@functools.lru_cache(maxsize=1024)
def documentation(fn: Callable[..., Any]) -> dict[str, str]:
    """Return the documentation of each parameter.

    It is that of the callable's docstring and its constructor's, and for `**kwargs: Unpack[SomeTypedDict]` that of
    the TypedDict: the "Attributes:" or "Args:" of its docstring. The text under each key of it, or under each field of
    a class, has precedence.
    """
    constructor = [fn.__init__] if inspect.isclass(fn) else []
    options = unpacked_in(fn)
    declaring = [cls for cls in (fn, options) if is_section(cls) or typing.is_typeddict(cls)]
    found = {name: _plain(text) for cls in declaring for name, text in field_docs(cls).items()}
    for documented in (fn, *constructor, options):
        for name, text in _arguments(documented).items():
            found.setdefault(name, text)
    return found


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a class, its bases' included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):  # made in an interpreter, where there is no source
            continue
        found |= _docs_in(body)
    return found


def _arguments(documented: object) -> dict[str, str]:
    """Return what the docstring of a callable or class says about each argument."""
    import docstring_parser

    found: dict[str, str] = {}
    text = None if documented is None else inspect.getdoc(documented)
    for entry in docstring_parser.parse(text or "").params:
        for name in entry.arg_name.replace("*", "").split(","):
            found.setdefault(name.strip(), _plain(entry.description or ""))
    return found


def _docs_in(node: ast.stmt) -> dict[str, str]:
    statements = getattr(node, "body", [])
    found = {}
    for statement, after in itertools.pairwise(statements):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and is_text:
            found[statement.target.id] = inspect.cleandoc(str(after.value.value))
    return found


def _plain(text: str) -> str:
    """Put a description on one line, without the default that help and freezing state themselves."""
    text = re.sub(r":\w+:`~?([^`<]+?)\s*(?:<[^>]*>)?`", r"`\1`", text)  # roles and links of reStructuredText
    text = re.sub(r"`([^`]+?)\s*(?:<[^>]*>)?`_+", r"\1", text)
    text = re.sub(r"\s*\([Dd]efault: (?:[^()]|\([^()]*\))*\)|Default: \S+", "", text)
    return " ".join(text.replace("``", "`").split())
