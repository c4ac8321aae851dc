"""Mistakes in a config: structured records, collected in one list and rendered to text only for display."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from torchtune._bundled_packages import folder_of
from torchtune._pluralize import pluralize

# Named tuples rather than attrs classes, because importing attrs would dominate the run time of `tune ls`.

Path = tuple[str | int, ...]
"""A field path: field names, component arguments and list indices from the root."""

Kind = Literal[
    "missing",  # a required field is not set
    "unknown",  # not the name of a field, argument or key
    "wrong_type",  # a value whose type is not the declared type
    "rule",  # a value that a validator rejects
    "contradiction",  # a combination of fields that the config class rejects
    "reference",  # a `${...}` that cannot be resolved
    "component",  # a component that its field does not accept, or that cannot be built with its arguments
    "unwritable",  # a Python value that YAML cannot represent
    "source",  # a file that cannot be read or is not a config
    "failure",  # user code that raised an exception
    "argument",  # an invalid command-line argument
    "run",  # a device or output folder that is not usable for the run
    "consequence",  # caused by another mistake, and not reported
]
"""The kind of a mistake. Code must check this and the other fields, never the message text."""

COMMAND_LINE = "the command line"
"""The subject of mistakes on the command line."""

Painter = Callable[[str, str], str]
"""A function that styles one part of the output, given its text and name (`head`, `location`, `path`, `sentence`)."""


class Location(NamedTuple):
    """The location at which a value was set; locations sort in reading order."""

    layer: int = 0
    """0 for defaults and for command-line arguments other than overrides; 1, 2, ... for the layers above."""
    position: int = 0
    """The line of a file, counted from 1, or the position of an override on the command line; 0 if unknown."""
    source: str = ""
    """The file, the argument, or `default of FullFinetuneConfig`; empty if unknown."""
    kind: Literal["default", "file", "command line"] = "default"

    @property
    def line(self) -> int:
        """The line of a file; 0 if unknown or not in a file."""
        return self.position if self.kind == "file" else 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Mistake(NamedTuple):
    """One mistake in a config."""

    kind: Kind
    message: str = ""
    """The problem; may be empty if `expected` and `got` are set."""
    suggestion: str = ""
    """The suggested fix."""
    path: Path = ()
    """The field path; empty for a file or the command line as a whole."""
    expected: str = ""
    """The values that the field accepts, phrased to follow the word "expected"."""
    got: str = ""
    """The actual value, as displayed to the user."""
    fields: tuple[str, ...] = ()
    """The fields of the config class that a rule or contradiction involves."""
    caused_by: Path | None = None
    """The path of the mistake that causes this one, if there is a mistake at that path."""
    location: Location = Location()
    """The location at which the value was set."""
    documentation: str = ""
    """The docstring of a required field that is not set."""

    @classmethod
    def of_argument(cls, argument: str, message: str, suggestion: str = "") -> "Mistake":
        """Return a mistake on the command line."""
        return cls("argument", message, suggestion, location=Location(0, 0, argument, "command line"))

    @classmethod
    def of_file(cls, file: str, message: str, suggestion: str = "", line: int = 0) -> "Mistake":
        """Return a mistake that concerns a whole file, or a line without a field path."""
        return cls("source", message, suggestion, location=Location(0, line, file, "file"))

    @property
    def sentence(self) -> str:
        """The problem and the suggestion, without the location."""
        problem = f"{self.message} ({self.expected})" if self.message and self.expected else self.message
        problem = problem or f"expected {self.expected}, got {self.got}"
        text = with_suggestion(problem, self.suggestion)
        return f"{text} ({self.documentation.removesuffix('.')})" if self.documentation else text

    def render(self, paint: Painter = lambda text, _: text) -> str:
        """Return the mistake as one line: `my.yaml:12: optimizer.lr: expected a float, got 'x'`."""
        parts = {"location": str(self.location), "path": dotted(self.path), "sentence": self.sentence}
        return ": ".join(paint(printable(text), name) for name, text in parts.items() if text)

    def __str__(self) -> str:
        return self.render()


def printable(text: str) -> str:
    """Escape line breaks and terminal control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ConfigError(ValueError):
    """An error that contains all mistakes in a config.

    Attributes:
        mistakes: Every mistake, in reading order.
        subject: What contains the mistakes, such as `the config of full_finetune` or `the command line`.
        heading: The line above the list; empty: the number of mistakes and the subject.
    """

    def __init__(self, mistakes: Iterable[Mistake], subject: str = "the config", heading: str = "") -> None:
        self.mistakes = tuple(mistakes)
        self.subject, self.heading = subject, heading
        super().__init__(self.mistakes, subject, heading)

    @classmethod
    def of_argument(cls, argument: str, message: str, suggestion: str = "") -> "ConfigError":
        """Return the error for one mistake on the command line."""
        return cls([Mistake.of_argument(argument, message, suggestion)], COMMAND_LINE)

    @classmethod
    def of_file(cls, file: str, message: str, suggestion: str = "", line: int = 0) -> "ConfigError":
        """Return the error for one mistake in a file."""
        return cls([Mistake.of_file(file, message, suggestion, line)])

    def render(self, paint: Painter = lambda text, _: text) -> str:
        """Render the list as text: a heading, then a line for each mistake."""
        preposition = "on" if self.subject == COMMAND_LINE else "in"
        heading = f"{pluralize(len(self.mistakes), 'mistake')} {preposition} {self.subject}"
        return "\n".join(
            [
                paint(f"{self.heading or heading}:", "head"),
                *(f"  {mistake.render(paint)}" for mistake in self.mistakes),
            ]
        )

    def __str__(self) -> str:
        return self.render()


class InstantiationError(ValueError):
    """A component could not be built; the original exception, if any, is its `__cause__`.

    Attributes:
        message: The component, the argument, and the reason.
        location: The location of the component's definition; None if unknown.
        path: The component's field path.
    """

    def __init__(self, message: str, location: Location | None = None, path: Path = ()) -> None:
        super().__init__(message, location, path)
        self.message, self.location, self.path = message, location, path

    def __str__(self) -> str:
        return ": ".join(filter(None, [str(self.location or ""), dotted(self.path), self.message]))


class RejectedError(Exception):
    """Raised by structure hooks with every mistake in one value, without locations."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(*mistakes)
        self.mistakes = mistakes


def reject(kind: Kind, message: str = "", suggestion: str = "", path: Path = ()) -> RejectedError:
    """Return a `RejectedError` with one mistake; `path` is relative to the current value."""
    return RejectedError(Mistake(kind, message, suggestion, path))


def mistakes_at(key: str | int, rejected: RejectedError) -> list[Mistake]:
    """Return the mistakes in the value at `key`, with paths relative to its container."""
    return [m._replace(path=(key, *m.path)) for m in rejected.mistakes]


def unknown_name(name: str, known_names: Iterable[object], path: Path = (), owner: str = "") -> Mistake:
    """Return the mistake for an unknown field, argument or key.

    Args:
        name: The unknown name.
        known_names: The valid names.
        path: The path of the name, relative to the current value.
        owner: The component that the argument was passed to; empty for a field.
    """
    from torchtune._hints import hint_for  # imported here, because `tune ls` does not need it

    names = [*known_names]
    message = f"{owner} has no argument {name!r}" if owner else f"unknown field {name!r}"
    return Mistake("unknown", message, hint_for(name, names) or did_you_mean(name, names), path, got=name)


def nearest(name: str, known_names: Iterable[object]) -> str | None:
    """Return the known name closest to a misspelled one, or None."""
    names = [str(k) for k in known_names]
    folded = {n.lower().replace("-", "_"): n for n in reversed(names)}
    exact = folded.get(name.lower().replace("-", "_"))
    completions = [n for n in names if len(name) > 2 and n.startswith(name)]
    if exact or completions:
        return exact or min(completions, key=len)
    import difflib

    matches = difflib.get_close_matches(name, names, 1, 0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known_names: Iterable[object]) -> str:
    """Return `did you mean 'x'?`, or an empty string if no known name is close."""
    suggestion = nearest(name, known_names)
    return f"did you mean {suggestion!r}?" if suggestion else ""


def with_suggestion(text: str, suggestion: str) -> str:
    """Append a suggestion to a sentence, if there is one."""
    return f"{text}; {suggestion}" if suggestion else text


def dotted(path: Iterable[Any]) -> str:
    """Return a field path in dotted form, as on the command line."""
    return ".".join(map(str, path))


def display_path(file: str) -> str:
    """Return a file's path for display: relative to the working directory or torchtune's folder if possible."""
    path = file if ".." in file else os.path.normpath(file)  # pathlib would make `tune diff` 10% slower
    for root in (os.getcwd(), folder_of("")):  # noqa: PTH109
        if path.startswith(os.path.join(root, "")):  # noqa: PTH118
            return path[len(os.path.join(root, "")) :]  # noqa: PTH118
    return path
