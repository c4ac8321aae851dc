"""The options of a run, each declared once, and the parser of command lines.

Every call of `tune` imports this module, so it must not import anything slow.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from torchtune._bundled_packages import prefer_project_packages
from torchtune._home import expand_path
from torchtune.config import ConfigError, Mistake

RECIPES: Final = "recipes"
CONFIGS: Final = "configs"
"""Placeholders for the registered names in `Option.completions`."""
WIDTH: Final = 80
"""The number of characters in a line of help."""
MAX_OPTION_WIDTH: Final = 21
"""The maximum width of an option in the options table; a longer option has its description on the next line."""


class Option(NamedTuple):
    """A command-line option, as used by the parser, help pages and completion."""

    text: str
    """The spellings as in help pages, such as `-o, --output`; usage lines show only the first."""
    help: str = ""
    value: str = ""
    """The placeholder for the value in help; empty for a switch."""
    choices: tuple[str, ...] = ()
    """The allowed values; empty if any value is allowed."""
    completions: tuple[str, ...] = ()
    """The values that completion offers: RECIPES or CONFIGS."""
    required: bool = False
    repeats: bool = False
    """Whether the option may occur more than once."""

    @property
    def names(self) -> list[str]:
        """The spellings, as a list."""
        return self.text.split(", ")

    @property
    def with_value(self) -> str:
        """The option with its value, as in help pages."""
        return f"{self.text} {self.value}".rstrip()

    @property
    def usage(self) -> str:
        """The option as in a usage line."""
        text = f"{self.names[0]} {'|'.join(self.choices) or self.value}".rstrip()
        text += " ..." * (self.repeats and not text.endswith("..."))
        return text if self.required else f"[{text}]"


HELP: Final = Option("--help, -h", "show this help")
CONFIG: Final = Option(
    "--config", "the config to start from", "<name or path>", completions=(CONFIGS,), required=True
)
OVERRIDE: Final = Option("--override", "change fields of the config", "key=value ...", repeats=True)
ALLOW: Final = Option("--allow", "trust the code of a package", "PACKAGE", repeats=True)
OVERWRITE: Final = Option(
    "--overwrite",
    "start a new run in an output_dir that already contains one; the old run's config.yaml, run.json, metrics,"
    " checkpoints and results are deleted; other files are kept",
)
EXTEND: Final = Option("--extend", "continue a finished run after raising its epochs or step limits")
ACCEPT_CHANGES: Final = Option(
    "--accept-changes",
    "resume even if code, data or package versions have changed since the run started; run.json lists the changes",
)
JOIN_TIMEOUT: Final = Option(
    "--join-timeout", "time limit for all ranks to join at the start (default: 600)", "SECONDS"
)
RUN_OPTIONS: Final = (CONFIG, OVERRIDE, ALLOW, OVERWRITE, EXTEND, ACCEPT_CHANGES, JOIN_TIMEOUT)

LAUNCH_OPTIONS: Final = (
    Option("--nproc_per_node", "number of ranks on this machine", "N"),
    Option("--nnodes", "number of machines, or a range such as 2:4", "N"),
    Option("--node_rank", "index of this machine, from 0", "N"),
    Option("--rdzv_backend", "rendezvous backend, c10d or static", "NAME"),
    Option("--rdzv_endpoint", "rendezvous address", "HOST:PORT"),
    Option("--rdzv_id", "job id, the same on all machines", "ID"),
    Option("--master_addr", "address of rank 0's machine, if no rendezvous backend is set", "HOST"),
    Option("--master_port", "port on that machine", "PORT"),
    Option("--standalone", "run on a single machine, with any free port"),
    Option("--max_restarts", "maximum number of restarts after a rank fails", "N"),
    Option("--log_dir", "folder for the ranks' log files", "FOLDER"),
    Option(
        "--tee, -t",
        "streams to print and to write to log files; 3: stdout and stderr",
        "STREAMS",
    ),
)
"""Options of torchrun that distributed runs commonly need; any other option is accepted in the same position."""
LAUNCH_SWITCHES: Final = (
    "--standalone",
    "-m",
    "--module",
    "--no_python",
    "--run_path",
    "--virtual_local_rank",
)
"""All torchrun options without a value."""

Suggest = Callable[[str, str], str]
"""A function that returns the most likely suggestion, given an unknown flag and a fallback suggestion.

A suggestion is empty, or a clause that follows a semicolon in a message.
"""


def names_of(options: Sequence[Option]) -> list[str]:
    """Return all spellings of the given options."""
    return [name for option in options for name in option.names]


def options_table(options: Sequence[Option]) -> str:
    """Format options with their descriptions as an aligned table, each starting on its own line."""
    from textwrap import fill

    entries = [option.with_value for option in options]
    width = max((len(entry) for entry in entries if len(entry) <= MAX_OPTION_WIDTH), default=0) + 4
    lines = []
    for entry, option in zip(entries, options, strict=True):
        text = fill(option.help, WIDTH, initial_indent=" " * width, subsequent_indent=" " * width)
        is_short = len(entry) <= MAX_OPTION_WIDTH
        lines.append(f"  {entry}".ljust(width) + text[width:] if is_short else f"  {entry}\n{text}")
    return "\n".join(lines)


def suggest_run_option(flag: str, fallback: str) -> str:
    """Suggest the run option closest to a misspelled flag."""
    return fallback or similar_option(flag, names_of((*RUN_OPTIONS, HELP)))


def similar_option(flag: str, names: Sequence[str]) -> str:
    """Return `did you mean --x?`, or an empty string if no option is similar."""
    import difflib

    matches = difflib.get_close_matches(flag, names, 1, 0.8)
    return f"did you mean {matches[0]!r}?" if matches else ""


class Call(NamedTuple):
    """A parsed command line."""

    argv: Sequence[str]
    """All arguments, as typed."""
    arguments: list[str]
    """The positional arguments; the first one is the recipe, if any."""
    options: dict[str, list[str]]
    """The values of each option, by its first spelling; an empty list for a switch."""
    overrides: list[str]
    """Overrides of a config, as typed."""
    launch: list[str]
    """Options of torchrun, with their values."""
    mistakes: list[Mistake]
    suggest: Suggest = suggest_run_option
    """Returns a suggestion for a flag that is not a field of the config."""

    @classmethod
    def for_config(cls, recipe: str, config: str, mistakes: Sequence[Mistake] = ()) -> "Call":
        """Return a call that runs a recipe with a config."""
        return cls((), [recipe] if recipe else [], {CONFIG.text: [config]}, [], [], list(mistakes))

    @property
    def recipe(self) -> str:
        """The name or the file of the recipe; empty if not given."""
        return self.arguments[0] if self.arguments else ""

    @property
    def config(self) -> str | None:
        """The name of the config, if there is one."""
        return self.value(CONFIG)

    @property
    def wants_help(self) -> bool:
        """Whether `--help` is present."""
        return self.has(HELP)

    @property
    def allowed(self) -> list[str]:
        """The packages whose code is trusted."""
        return [name for text in self.values(ALLOW) for name in text.replace(",", " ").split()]

    def has(self, option: Option) -> bool:
        """Return whether an option is present."""
        return option.names[0] in self.options

    def values(self, option: Option) -> list[str]:
        """Return all values of an option."""
        return self.options.get(option.names[0], [])

    def value(self, option: Option) -> str | None:
        """Return the value of an option; None if the option is absent."""
        return next(iter(self.values(option)), None)

    def number(self, option: Option) -> int | None:
        """Return the value of an option as a positive integer; None if the option is absent.

        Raises:
            ConfigError: The value is not an integer above 0.
        """
        text = self.value(option)
        if text is not None and not (text.isdecimal() and int(text)):
            raise ConfigError.of_argument(option.text, f"expected an integer above 0, got {text!r}")
        return None if text is None else int(text)


def parse_command_line(
    argv: Sequence[str],
    options: Sequence[Option],
    *,
    allow_torchrun: bool = False,
    suggest: Suggest = suggest_run_option,
) -> Call:
    """Parse a command line; mistakes are collected in the result.

    Args:
        argv: The arguments after the program and its command.
        options: The accepted options, in addition to `--help`. If they include OVERRIDE, the first positional argument
            is a recipe and the others are overrides.
        allow_torchrun: Pass unknown options before the recipe to torchrun.
        suggest: Returns a suggestion for an unknown option.
    """
    call = Call(argv, [], {}, [], [], [], suggest)
    known_options = {
        name: option for option in (*options, HELP) for name in option.names if option is not OVERRIDE
    }
    remaining = list(argv)
    while remaining:
        arg = remaining.pop(0)
        name, equals, text = arg.partition("=")
        option = known_options.get(name)
        if option is not None and option.value:
            if (
                not equals
                and remaining
                and not remaining[0].startswith("--")
                and remaining[0] not in known_options
            ):
                text = remaining.pop(0)
            _set(call, option, name, text)
        elif option is not None and equals:
            call.mistakes.append(Mistake.of_argument(arg, f"{name} does not accept a value"))
        elif option is not None:
            call.options.setdefault(option.names[0], [])
        elif allow_torchrun and name.startswith("-") and not call.arguments and name != OVERRIDE.text:
            has_value = not equals and name[:2] + name[2:].replace("-", "_") not in LAUNCH_SWITCHES
            call.launch.extend([arg, *([remaining.pop(0)] if has_value and remaining else [])])
        elif OVERRIDE in options and (name.startswith("-") or equals or call.arguments):
            call.overrides.append(arg)
        elif name.startswith("-"):
            call.mistakes.append(Mistake.of_argument(arg, "unknown option", suggest(name, "")))
        else:
            call.arguments.append(_expanded(call, arg, arg))
    _prefer_packages_of(call)
    return call


def _prefer_packages_of(call: Call) -> None:
    """Import `recipes` and `configs_py` from the project of the call's files, before torchtune uses these names."""
    for named in (call.recipe, call.config or ""):
        file = named.rpartition(":")[0] if ".py:" in named else named
        if file.endswith(".py"):
            prefer_project_packages(file)


def _set(call: Call, option: Option, name: str, text: str) -> None:
    """Add a value of an option to a call, or a mistake."""
    values = call.options.setdefault(option.names[0], [])
    if not text:
        call.mistakes.append(Mistake.of_argument(name, "expected a value"))
    elif values and not option.repeats:
        call.mistakes.append(Mistake.of_argument(f"{name} {text}", f"{name} is given twice"))
    elif option.choices and text not in option.choices:
        message = f"invalid value {text!r}"
        call.mistakes.append(Mistake.of_argument(name, message, f"choose one of {', '.join(option.choices)}"))
    else:
        values.append(_expanded(call, f"{name} {text}", text))


def _expanded(call: Call, argument: str, text: str) -> str:
    """Expand a `~` that the shell has not expanded: in `--config=~/x.yaml`, in quotes, or in arguments from Python."""
    try:
        return expand_path(text) if text.startswith("~") else text
    except ValueError as error:
        call.mistakes.append(Mistake.of_argument(argument, str(error)))
        return text
