"""Mistakes in a config: values with fields, all in one list, rendered to text once, where a user reads them."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from torchtune._counted import counted
from torchtune._own_packages import folder_of

# Named tuples, since `tune ls` passes here and importing attrs costs more than all it does.

Path = tuple[str | int, ...]
"""A place in a config: field names, component arguments and list indices from the root."""

Kind = Literal[
    "missing",  # a required field is not set
    "unknown",  # a name that is no field, argument or key
    "wrong_type",  # a value that is not of the declared type
    "rule",  # a value that a validator rejects
    "contradiction",  # fields that their config class rejects together
    "reference",  # a `${...}` that cannot be resolved
    "component",  # a component that cannot be named there, or be built with its arguments
    "unwritable",  # a Python value that YAML cannot hold
    "source",  # a file that cannot be read, or what is no config in it
    "failure",  # a user's Python code that raised
    "word",  # a word of the command line that makes no sense
    "run",  # a device or an output folder that the run cannot have
    "consequence",  # what follows from another mistake, and is not reported
]
"""What is wrong: code decides by this and the other fields, never by the text of a message."""

Painter = Callable[[str, str], str]
"""Styles a part of what is rendered, given its text and its name: `head`, `location`, `path` or `sentence`."""


class Location(NamedTuple):
    """Where something was written; locations sort as a reader meets them."""

    layer: int = 0
    """0 for defaults and for words of the command line that are no overrides, then one for each layer."""
    position: int = 0
    """The line of a file, counted from 1, or an override's place on the command line; 0 where it is not known."""
    source: str = ""
    """The file, the words, or `default of FullFinetuneConfig`; empty where nothing was written."""
    kind: Literal["default", "file", "command line"] = "default"

    @property
    def line(self) -> int:
        """The line of a file; 0 where it is not known, and for what is not in a file."""
        return self.position if self.kind == "file" else 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Mistake(NamedTuple):
    """One thing that is wrong in a config."""

    kind: Kind
    message: str = ""
    """What is wrong; empty where `expected` and `got` say it."""
    suggestion: str = ""
    """How to fix it."""
    path: Path = ()
    """Where in the config; empty for a file or the command line as a whole."""
    expected: str = ""
    """What may stand there, as text that completes `expected`."""
    got: str = ""
    """What stands there, as it is shown to the user."""
    fields: tuple[str, ...] = ()
    """Of a rule or contradiction: the fields of the config class that it is about."""
    caused_by: Path | None = None
    """The path whose own mistake, if it has one, is the reason for this one."""
    location: Location = Location()
    """Where it was written."""
    documentation: str = ""
    """What the docstring of a field says that is not set."""

    @classmethod
    def of_word(cls, word: str, message: str, suggestion: str = "") -> "Mistake":
        """Return a mistake on the command line."""
        return cls("word", message, suggestion, location=Location(0, 0, word, "command line"))

    @classmethod
    def of_file(cls, file: str, message: str, suggestion: str = "", line: int = 0) -> "Mistake":
        """Return a mistake of a file as a whole, or of a line of it that has no path."""
        return cls("source", message, suggestion, location=Location(0, line, file, "file"))

    @property
    def sentence(self) -> str:
        """What is wrong and how to fix it, without where."""
        wrong = ": ".join(filter(None, [self.message, self.expected]))
        text = hinted(wrong if self.message else f"expected {self.expected}, got {self.got}", self.suggestion)
        return f"{text} ({self.documentation.removesuffix('.')})" if self.documentation else text

    def render(self, paint: Painter = lambda text, _: text) -> str:
        """Return the mistake as one line: `my.yaml:12: optimizer.lr: expected a float, got 'x'`."""
        parts = {"location": str(self.location), "path": dotted(self.path), "sentence": self.sentence}
        return ": ".join(paint(printable(text), name) for name, text in parts.items() if text)

    def __str__(self) -> str:
        return self.render()


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

    @classmethod
    def of_word(cls, word: str, message: str, suggestion: str = "") -> "ConfigError":
        """Return the error for one mistake on the command line."""
        return cls([Mistake.of_word(word, message, suggestion)], "the command line")

    @classmethod
    def of_file(cls, file: str, message: str, suggestion: str = "", line: int = 0) -> "ConfigError":
        """Return the error for one mistake of a file."""
        return cls([Mistake.of_file(file, message, suggestion, line)])

    def render(self, paint: Painter = lambda text, _: text) -> str:
        """Return the list as text: a head, then a line for each mistake."""
        count = len(self.mistakes)
        head = paint(f"{counted(count, 'mistake')} in {self.of}:", "head")
        return "\n".join([head, *(f"  {mistake.render(paint)}" for mistake in self.mistakes)])

    def __str__(self) -> str:
        return self.render()


class InstantiationError(ValueError):
    """A component could not be built; the original exception, if any, is its `__cause__`.

    Attributes:
        message: Which component and argument, and why.
        location: Where the component was written; None where that is not known (yet).
        path: The component's path in its config.
    """

    def __init__(self, message: str, location: Location | None = None, path: Path = ()) -> None:
        super().__init__(message, location, path)
        self.message, self.location, self.path = message, location, path

    def __str__(self) -> str:
        return ": ".join(filter(None, [str(self.location or ""), dotted(self.path), self.message]))


class RejectedError(Exception):
    """Raised by structure hooks with every mistake found below one value; their locations are not known yet."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(*mistakes)
        self.mistakes = mistakes


def reject(kind: Kind, message: str = "", suggestion: str = "", path: Path = ()) -> RejectedError:
    """Return a rejection with one mistake, at `path` below the value at hand."""
    return RejectedError(Mistake(kind, message, suggestion, path))


def below(key: str | int, rejected: RejectedError) -> list[Mistake]:
    """Return the mistakes of a value that stands at `key`, with paths from the value that holds it."""
    return [m._replace(path=(key, *m.path)) for m in rejected.mistakes]


def unknown(name: str, known: Iterable[object], path: Path = (), owner: str = "") -> Mistake:
    """Return the mistake of a name that is no field, argument or key.

    Args:
        name: The name.
        known: The names that exist.
        path: Where it stands, below the value at hand.
        owner: The component whose argument it would be.
    """
    from torchtune._hints import hint_for  # `tune ls` makes no mistakes

    names = [*known]
    message = f"{owner} takes no {name!r}" if owner else f"no {name!r}"
    return Mistake("unknown", message, hint_for(name, names) or did_you_mean(name, names), path, got=name)


def nearest(name: str, known: Iterable[object]) -> str | None:
    """Return the known name that a misspelt one most likely means."""
    names = [str(k) for k in known]
    folded = {n.lower().replace("-", "_"): n for n in reversed(names)}
    exact = folded.get(name.lower().replace("-", "_"))
    begun = [n for n in names if len(name) > 2 and n.startswith(name)]
    if exact or begun:
        return exact or min(begun, key=len)
    import difflib

    near = difflib.get_close_matches(name, names, 1, 0.6)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """Return `did you mean 'x'?`, or nothing where no known name is near."""
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else ""


def hinted(text: str, suggestion: str) -> str:
    """Return a sentence with its suggestion, if there is one."""
    return f"{text}; {suggestion}" if suggestion else text


def dotted(path: Iterable[Any]) -> str:
    """Return a path as it is written on the command line."""
    return ".".join(map(str, path))


def shown_path(file: str) -> str:
    """Return a file's path as a user would write it here: relative where it lies below this folder."""
    path = file if ".." in file else os.path.normpath(file)  # pathlib costs `tune diff` a tenth
    for root in (os.getcwd(), folder_of("")):  # noqa: PTH109
        if path.startswith(os.path.join(root, "")):  # noqa: PTH118
            return path[len(os.path.join(root, "")) :]  # noqa: PTH118
    return path
