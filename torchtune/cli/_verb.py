"""What a verb declares, in one value: the reader, the pages of help and completion know no more of it.

Every call of `tune` imports this file, so it imports nothing that costs time.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from torchtune.config import ConfigError
from torchtune.runs.command_line import (
    ALLOW,
    CONFIG,
    HELP,
    LAUNCH_OPTIONS,
    OVERRIDE,
    RECIPES,
    RUN_OPTIONS,
    WIDTH,
    Call,
    Option,
    names_of,
    near_option,
    options_table,
    read_words,
)

MANY: Final = sys.maxsize


class Argument(NamedTuple):
    """A word of a call that is no option."""

    usage: str
    """How a usage line shows it."""
    completes: tuple[str, ...] = ()
    """What completion offers: RECIPES, CONFIGS, or the words themselves."""
    least: int = 1
    most: int = 1
    """How many words it may be."""


class Form(NamedTuple):
    """A way to call a verb: a line of its usage."""

    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()


class Verb(NamedTuple):
    """A verb of `tune`, the `VERB` of its file `torchtune/cli/_<name>.py`.

    The first line of that file, a docstring such as `tune ls`: list recipes and their configs, is its line in
    `tune --help`.
    """

    name: str
    run: Callable[[Call], int]
    """Does what the verb does, and returns the exit status."""
    forms: tuple[Form, ...]
    about: str
    """What the verb does, as its page of help begins."""
    examples: tuple[str, ...]
    notes: str = ""
    """What its page of help says after the options."""
    takes: str = ""
    """Its arguments in words, for a call with too few or too many; empty where `run` checks them itself."""
    launch: tuple[Option, ...] = ()
    """Options of torchrun, which stand before the recipe; empty where it takes none."""
    explain: Callable[[Call], int] | None = None
    """What `--help` does where a recipe is named; None: it prints the page all the same."""

    @property
    def takes_overrides(self) -> bool:
        """True where it reads a recipe and overrides of its config."""
        return OVERRIDE in self.options

    @property
    def options(self) -> tuple[Option, ...]:
        """Its options, without those of torchrun."""
        return tuple(dict.fromkeys(option for form in self.forms for option in form.options))

    def read(self, words: Sequence[str]) -> Call:
        """Sort the words after the verb; what is wrong with them is noted in the result."""
        return read_words(words, self.options, takes_launch=bool(self.launch), suggest=self.suggest)

    def suggest(self, flag: str, otherwise: str) -> str:
        """Return what a flag may mean that this verb does not understand.

        Args:
            flag: As typed.
            otherwise: What it may mean if it is no option of any verb; or empty.
        """
        from torchtune.cli import load_verb, verbs

        own = names_of((*self.options, HELP))
        if self.launch and flag[:2] + flag[2:].replace("-", "_") in names_of(LAUNCH_OPTIONS):
            return f"{flag} is torchrun's and stands before the recipe"
        others = {name: names_of((*load_verb(name).options, *load_verb(name).launch)) for name in verbs()}
        takers = [f"tune {name}" for name, names in others.items() if flag in names and flag not in own]
        if takers:
            return f"{flag} is an option of {', '.join(takers)}"
        near = otherwise or near_option(flag, own)
        if self.takes_overrides:
            return near or near_option(flag, [name for names in others.values() for name in names])
        return near or f"tune {self.name} --help lists the options"

    def fits(self, call: Call) -> bool:
        """Tell whether a call has as many arguments as a form takes, and the options that it needs."""
        count = len(call.arguments)
        return any(
            sum(a.least for a in form.arguments) <= count <= sum(a.most for a in form.arguments)
            and all(call.has(option) for option in form.options if option.required)
            for form in self.forms
        )

    @property
    def help(self) -> str:
        """Its page of help."""
        heads = [f"usage: tune {self.name}", *[f"       tune {self.name}" for _ in self.forms[1:]]]
        usage = [_wrapped(head, self._pieces(form)) for head, form in zip(heads, self.forms, strict=True)]
        examples = [f"  {line}" for line in self.examples]
        parts = ["\n".join(usage), self.about, self._table(), self.notes, "\n".join(examples)]
        return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"

    def _pieces(self, form: Form) -> list[str]:
        """Return what follows the verb in a usage line, in pieces that are not broken."""
        launch = [option.usage for option in self.launch] if form is self.forms[0] else []
        chosen_by = [option.usage for option in form.options if option.required and not option.value]
        arguments = [argument.usage for argument in form.arguments]
        options = [option.usage for option in form.options if option.usage not in chosen_by]
        return [*launch, *chosen_by, *arguments, *options]

    def _table(self) -> str:
        """Return the options that are explained; those of every run are on the page of `tune run`."""
        elsewhere = () if self.name == "run" else (*LAUNCH_OPTIONS, *RUN_OPTIONS)
        return options_table([o for o in (*self.launch, *self.options) if o.help and o not in elsewhere])


def _wrapped(head: str, pieces: Sequence[str]) -> str:
    """Return a usage line, broken between its pieces."""
    lines = [head]
    for piece in pieces:
        if len(lines[-1]) + 1 + len(piece) > WIDTH:
            lines.append(" " * len(head))
        lines[-1] += f" {piece}"
    return "\n".join(lines)


CONFIG_OPTIONS: Final = (CONFIG, OVERRIDE, ALLOW)
"""The options that name a config and change it."""
JSON: Final = Option("--json")
FORCE: Final = Option("--force")
OUTPUT: Final = Option("-o, --output", "write there, not to standard output", "FILE")
RECIPE: Final = Argument("<recipe>", (RECIPES,))
COUNT_OPTIONS: Final = LAUNCH_OPTIONS[:2]
"""Those of torchrun's options that say on how many ranks a config would run."""


def write_output(call: Call, text: str) -> int:
    """Write text to the file that a call names, or to standard output.

    Raises:
        ConfigError: The file cannot be written.
    """
    target = call.value(OUTPUT)
    if target is None:
        sys.stdout.write(text)
        return 0
    try:
        with open(target, "w", encoding="utf-8") as stream:  # noqa: PTH123 -- see `tune cp`
            stream.write(text)
    except OSError as error:
        raise ConfigError.of_word(target, f"cannot be written: {error.strerror}") from error
    sys.stdout.write(f"wrote {target}\n")
    return 0


def write_json(value: object) -> None:
    """Write a value to standard output, for a script."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")
