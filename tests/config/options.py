"""Components whose keyword arguments are declared by a TypedDict."""

from collections.abc import Sequence
from typing import Any, NotRequired, Required, TypedDict, Unpack


class Options(TypedDict, total=False):
    """Keyword arguments of multiple components."""

    stop_words: Sequence[str] | None
    """Words that end
    an answer."""
    arguments: dict[str, Any] | None
    """Arguments of a template."""
    depth: int
    """The depth; the component defines the default."""


class Strict(TypedDict):
    """Keyword arguments, some of which are required.

    Attributes:
        size: The size.
        name: The name of the reader.
    """

    size: int
    name: NotRequired[str | None]


class Mixed(Options, total=False):
    """The keyword arguments of `Options` and a required keyword argument."""

    label: Required[str]
    """The label of the reader."""


class Reader:
    """A class whose constructor has unpacked keyword arguments."""

    def __init__(self, path: str = "x", **options: Unpack[Options]) -> None:
        self.path, self.options = path, options


def reader(path: str = "x", **options: Unpack[Options]) -> Reader:
    """Build a reader.

    Args:
        path: The file to read.
        **options: See `Options`.
    """
    return Reader(path, **options)


def strict(**options: Unpack[Strict]) -> Reader:
    """Build a reader with a required size."""
    return Reader(str(options["size"]))


def mixed(**options: Unpack[Mixed]) -> Reader:
    """Build a reader with a label."""
    return Reader(options["label"])


def loose(path: str = "x", **keywords: Any) -> Reader:
    """Build a reader and ignore all other keyword arguments."""
    return Reader(path)
