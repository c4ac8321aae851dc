"""Mistakes in a config: each with its origin, its path, what was expected and a suggestion; all in one list."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

# Named tuples, since `tune ls` passes here and importing attrs costs more than all it does.

Path = tuple[str | int, ...]
"""A place in a config: field names, component arguments and list indices from the root."""


class Mistake(NamedTuple):
    """One thing that is wrong in a config."""

    origin: str
    """Where it was written: `my.yaml:12`, `configs_py/llama2.py:31`, `--override lr=x`, or empty."""
    path: str
    """The dotted path of the leaf; empty for the file or the command line as a whole."""
    message: str
    """What was expected, what was found, and a suggestion where one is near."""

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.origin, self.path, self.message) if part)
        return printable(text)  # a mistake is one line


def printable(text: str) -> str:
    """Return text with line breaks and terminal control written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConfigError(ValueError):
    """All mistakes of one config.

    Attributes:
        mistakes: Every mistake, in the order in which a reader meets them.
        of: What the mistakes are in, such as `the config of full_finetune`.
    """

    def __init__(self, mistakes: Iterable[Mistake], of: str = "the config") -> None:
        self.mistakes = tuple(mistakes)
        self.of = of
        super().__init__(self.mistakes, of)

    def __str__(self) -> str:
        count = len(self.mistakes)
        head = f"{count} mistake{'s' * (count != 1)} in {self.of}:"
        return "\n".join([head, *(f"  {mistake}" for mistake in self.mistakes)])


class InstantiationError(ValueError):
    """A component could not be built; the original exception, if any, is its `__cause__`.

    Attributes:
        placed: True where the message says already where the component was written.
    """

    placed = False


class Problem(NamedTuple):
    """A mistake before its origin is known: a path below the value at hand, and a message."""

    path: Path
    message: str
    because: Path | None = None
    """A place whose own mistake, if it has one, is the reason for this one."""


SILENT: Final = ""
"""The message of a problem that follows from one that was said already."""


class RejectedError(Exception):
    """Raised by structure hooks with every problem found below one value."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


def reject(message: str, *path: str | int) -> RejectedError:
    """Return a rejection with one problem, at `path` below the value at hand."""
    return RejectedError(Problem(path, message))


def below(key: str | int, rejected: RejectedError) -> list[Problem]:
    """Return the problems of a value that stands at `key`, with paths from the value that holds it."""
    return [Problem((key, *p.path), p.message) for p in rejected.problems]


def nearest(name: str, known: Iterable[object]) -> str | None:
    """Return the known name that a misspelt one most likely means."""
    names = [str(k) for k in known]
    folded = {n.lower().replace("-", "_"): n for n in reversed(names)}
    if exact := folded.get(name.lower().replace("-", "_")):
        return exact
    import difflib

    near = difflib.get_close_matches(name, names, 1, 0.6)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """Return `; did you mean 'x'?`, or nothing where no known name is near."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def dotted(path: Iterable[Any]) -> str:
    """Return a path as it is written on the command line."""
    return ".".join(map(str, path))
