"""Documentation of parameters and fields, read from docstrings."""

import functools
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

from torchtune._field_docs import field_docs
from torchtune.config._signature import unpacked_in
from torchtune.config._types import is_section


@functools.lru_cache(maxsize=1024)
def documentation(fn: Callable[..., Any]) -> dict[str, str]:
    """Return the documentation of each parameter of a callable, by name.

    The sources are the "Args:" or "Attributes:" sections in the docstrings of the callable, its constructor and, for
    `**kwargs: Unpack[SomeTypedDict]`, the TypedDict. The docstring below a field of a class, or below a key of the
    TypedDict, takes precedence.
    """
    constructor = [fn.__init__] if inspect.isclass(fn) else []
    options = unpacked_in(fn)
    declaring_classes = [cls for cls in (fn, options) if is_section(cls) or typing.is_typeddict(cls)]
    docs = {name: _plain(text) for cls in declaring_classes for name, text in field_docs(cls).items()}
    for documented in (fn, *constructor, options):
        for name, text in _arguments(documented).items():
            docs.setdefault(name, text)
    return docs


def _arguments(documented: object) -> dict[str, str]:
    """Return the description of each argument in the docstring of a callable or class."""
    import docstring_parser

    docs: dict[str, str] = {}
    is_torch = str(getattr(documented, "__module__", "")).partition(".")[0] == "torch"
    text = None if documented is None else inspect.getdoc(documented)
    for entry in docstring_parser.parse(text or "").params:
        for name in entry.arg_name.replace("*", "").split(","):
            description = _plain(entry.description or "")
            docs.setdefault(name.strip(), _first_sentence(description) if is_torch else description)
    return docs


def _first_sentence(text: str) -> str:
    """Return the first sentence of a description; torch's further sentences refer to its implementation."""
    sentence = text.partition(". ")[0].removesuffix(".")
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _plain(text: str) -> str:
    """Put a description on one line, without its default, which help and frozen configs show separately."""
    text = re.sub(r":\w+:`~?([^`<]+?)\s*(?:<[^>]*>)?`", r"`\1`", text)  # reStructuredText roles and links
    text = re.sub(r"`([^`]+?)\s*(?:<[^>]*>)?`_+", r"\1", text)
    text = re.sub(r"\s*\([Dd]efault: (?:[^()]|\([^()]*\))*\)|Default: \S+", "", text)
    return " ".join(text.replace("``", "`").split())
