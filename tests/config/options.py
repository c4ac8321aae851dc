"""Components whose keywords a TypedDict declares."""

from collections.abc import Sequence
from typing import Any, NotRequired, Required, TypedDict, Unpack


class Options(TypedDict, total=False):
    """Keywords of several components."""

    stop_words: Sequence[str] | None
    """Words that end
    an answer."""
    arguments: dict[str, Any] | None
    """Whatever a template takes."""
    depth: int
    """How deep; what is left out is left to the component."""


class Strict(TypedDict):
    """Keywords of which some must be passed.

    Attributes:
        size: How large.
        name: What it is called.
    """

    size: int
    name: NotRequired[str | None]


class Mixed(Options, total=False):
    """Keywords of `Options` and one that must be passed."""

    label: Required[str]
    """What it is called."""


class Reader:
    """A class with such a constructor."""

    def __init__(self, path: str = "x", **options: Unpack[Options]) -> None:
        self.path, self.options = path, options


def reader(path: str = "x", **options: Unpack[Options]) -> Reader:
    """Build a reader.

    Args:
        path: Where from.
        **options: See `Options`.
    """
    return Reader(path, **options)


def strict(**options: Unpack[Strict]) -> Reader:
    """Build a reader that must be told how large."""
    return Reader(str(options["size"]))


def mixed(**options: Unpack[Mixed]) -> Reader:
    """Build a reader with a label."""
    return Reader(options["label"])


def loose(path: str = "x", **rest: Any) -> Reader:
    """Build a reader and ignore what else is passed."""
    return Reader(path)
