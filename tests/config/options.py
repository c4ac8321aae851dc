"""Components whose keywords a TypedDict declares."""

from collections.abc import Sequence
from typing import Any, NotRequired, Required, TypedDict, Unpack


class Options(TypedDict, total=False):
    """Keywords of several components."""

    stop_words: Sequence[str] | None
    """Words that end
    an answer."""
    arguments: dict[str, Any] | None
    """Arguments of a template."""
    depth: int
    """How deep; the component has its own default."""


class Strict(TypedDict):
    """Keywords, some of them required.

    Attributes:
        size: How large.
        name: The name of the reader.
    """

    size: int
    name: NotRequired[str | None]


class Mixed(Options, total=False):
    """Keywords of `Options` and a required one."""

    label: Required[str]
    """The label of the reader."""


class Reader:
    """A class whose constructor has unpacked keywords."""

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
    """Build a reader and ignore other keywords."""
    return Reader(path)
