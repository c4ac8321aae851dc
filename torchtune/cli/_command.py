"""The declaration of a command, which defines its command line, help page and completions.

Every call of `tune` imports this file, so it must not import slow modules.
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
    options_table,
    parse_command_line,
    similar_option,
)

MANY: Final = sys.maxsize


class Argument(NamedTuple):
    """A positional argument."""

    usage: str
    """The text in a usage line."""
    completions: tuple[str, ...] = ()
    """The completions: RECIPES, CONFIGS, or the values themselves."""
    min_count: int = 1
    """The minimum number of values."""
    max_count: int = 1
    """The maximum number of values."""


class Form(NamedTuple):
    """A combination of arguments and options that a command accepts, shown as one usage line."""

    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()


class Command(NamedTuple):
    """A command of `tune`, defined as `COMMAND` in the file `torchtune/cli/_<name>.py`.

    The first line of the file is a docstring such as "`tune ls`: list recipes and their configs". The text after the
    colon is the command's line in `tune --help`.
    """

    name: str
    run: Callable[[Call], int]
    """Runs the command and returns the exit status."""
    forms: tuple[Form, ...]
    description: str
    """The first paragraph of the help page."""
    examples: tuple[str, ...]
    notes: str = ""
    """Text on the help page after the options."""
    expects: str = ""
    """The expected arguments, for the message about a wrong number of arguments; empty if `run` checks the number."""
    launch: tuple[Option, ...] = ()
    """The torchrun options that the command accepts before the recipe."""
    show_recipe_help: Callable[[Call], int] | None = None
    """Handles `--help` with a recipe. None: `--help` always prints the help page."""

    @property
    def takes_overrides(self) -> bool:
        """Whether the command accepts a recipe and overrides of its config."""
        return OVERRIDE in self.options

    @property
    def options(self) -> tuple[Option, ...]:
        """The options, without torchrun's options."""
        return tuple(dict.fromkeys(option for form in self.forms for option in form.options))

    def read(self, args: Sequence[str]) -> Call:
        """Parse the arguments after the command; the result contains any mistakes."""
        return parse_command_line(args, self.options, allow_torchrun=bool(self.launch), suggest=self.suggest)

    def suggest(self, flag: str, default: str) -> str:
        """Return a hint for a flag that this command does not accept.

        Args:
            flag: The flag as typed.
            default: The hint if the flag is not an option of any command; may be empty.
        """
        from torchtune.cli import commands, load_command

        option_names = names_of((*self.options, HELP))
        if self.launch and flag[:2] + flag[2:].replace("-", "_") in names_of(LAUNCH_OPTIONS):
            return f"{flag} is an option of torchrun and comes before the recipe"
        names_by_command = {
            n: names_of((*load_command(n).options, *load_command(n).launch)) for n in commands()
        }
        if flag not in option_names:
            accepting = [f"tune {command}" for command, names in names_by_command.items() if flag in names]
            if accepting:
                return f"{flag} is an option of {', '.join(accepting)}"
        suggestion = default or similar_option(flag, option_names)
        if self.takes_overrides:
            all_names = [name for names in names_by_command.values() for name in names]
            return suggestion or similar_option(flag, all_names)
        return suggestion or f"tune {self.name} --help lists the options"

    def accepts(self, call: Call) -> bool:
        """Return whether a call has the number of arguments and the required options of one of the forms."""
        count = len(call.arguments)
        return any(
            sum(a.min_count for a in form.arguments) <= count <= sum(a.max_count for a in form.arguments)
            and all(call.has(option) for option in form.options if option.required)
            for form in self.forms
        )

    @property
    def help(self) -> str:
        """The help page."""
        heads = [f"usage: tune {self.name}", *[f"       tune {self.name}" for _ in self.forms[1:]]]
        usage = [_wrapped(head, self._pieces(form)) for head, form in zip(heads, self.forms, strict=True)]
        examples = ["examples:", *(f"  {line}" for line in self.examples)]
        parts = ["\n".join(usage), self.description, self._table(), self.notes, "\n".join(examples)]
        return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"

    def _pieces(self, form: Form) -> list[str]:
        """Return the parts of a usage line after the command; a line break is only allowed between parts."""
        launch = [option.usage for option in self.launch] if form is self.forms[0] else []
        selecting_options = [option.usage for option in form.options if option.required and not option.value]
        arguments = [argument.usage for argument in form.arguments]
        options = [option.usage for option in form.options if option.usage not in selecting_options]
        return [*launch, *selecting_options, *arguments, *options]

    def _table(self) -> str:
        """Return the table of options, without the run options, which `tune run --help` explains."""
        run_options = () if self.name == "run" else (*LAUNCH_OPTIONS, *RUN_OPTIONS)
        return options_table([o for o in (*self.launch, *self.options) if o.help and o not in run_options])


def _wrapped(head: str, pieces: Sequence[str]) -> str:
    """Return a usage line, wrapped between its pieces."""
    lines = [head]
    for piece in pieces:
        if len(lines[-1]) + 1 + len(piece) > WIDTH:
            lines.append(" " * len(head))
        lines[-1] += f" {piece}"
    return "\n".join(lines)


CONFIG_OPTIONS: Final = (CONFIG, OVERRIDE, ALLOW)
"""The options that select a config and change it."""
JSON: Final = Option("--json", "print JSON")
FORCE: Final = Option("--force", "overwrite an existing file")
OUTPUT: Final = Option("-o, --output", "file to write (default: standard output)", "FILE")
RECIPE: Final = Argument("<recipe>", (RECIPES,))
COUNT_OPTIONS: Final = LAUNCH_OPTIONS[:2]
"""The torchrun options that set the number of ranks."""


def write_output(call: Call, text: str) -> int:
    """Write text to the `--output` file, or to standard output without this option.

    Raises:
        ConfigError: The file cannot be written.
    """
    target = call.value(OUTPUT)
    if target is None:
        sys.stdout.write(text)
        return 0
    try:
        with open(target, "w", encoding="utf-8") as stream:  # noqa: PTH123 -- importing pathlib is slow
            stream.write(text)
    except OSError as error:
        raise ConfigError.of_argument(target, f"the file cannot be written: {error.strerror}") from error
    sys.stdout.write(f"wrote {target}\n")
    return 0


def write_json(value: object) -> None:
    """Write a value to standard output as JSON, for scripts."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")
