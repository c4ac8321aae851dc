"""The options of a run, each declared once, and the reader of command lines.

Every call of `tune` imports this file, so it imports nothing that costs time.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from torchtune._home import expand_path
from torchtune._own_packages import prefer_packages_beside
from torchtune.config import ConfigError, Mistake

RECIPES: Final = "recipes"
CONFIGS: Final = "configs"
"""The registered names, for completion."""
WIDTH: Final = 80
"""Characters of a line of help."""
WIDEST_ENTRY: Final = 21
"""Characters of an option in the table of options; the text of a longer one begins on the next line."""


class Option(NamedTuple):
    """An option, as the reader, the pages of help and completion know it."""

    text: str
    """Its spellings, as help shows them: `-o, --output`; a usage line shows the first."""
    help: str = ""
    value: str = ""
    """What help calls its value; empty for a switch."""
    choices: tuple[str, ...] = ()
    """The only possible values; empty: any value is possible."""
    completes: tuple[str, ...] = ()
    """What completion offers as its value: RECIPES or CONFIGS."""
    required: bool = False
    repeats: bool = False
    """True where it may be given more than once."""

    @property
    def names(self) -> list[str]:
        """Its spellings."""
        return self.text.split(", ")

    @property
    def shown(self) -> str:
        """The option with its value, as a page of help lists it."""
        return f"{self.text} {self.value}".rstrip()

    @property
    def usage(self) -> str:
        """The option as a usage line shows it."""
        text = f"{self.names[0]} {'|'.join(self.choices) or self.value}".rstrip()
        text += " ..." * (self.repeats and not text.endswith("..."))
        return text if self.required else f"[{text}]"


HELP: Final = Option("--help, -h", "explain the call")
CONFIG: Final = Option(
    "--config", "the config to start from", "<name or path>", completes=(CONFIGS,), required=True
)
OVERRIDE: Final = Option("--override", "change fields of the config", "key=value ...", repeats=True)
ALLOW: Final = Option("--allow", "trust the code of a package", "PACKAGE", repeats=True)
OVERWRITE: Final = Option(
    "--overwrite",
    "start anew in an output_dir that holds a run: its config, record, metrics, checkpoints and result are removed,"
    " nothing else",
)
EXTEND: Final = Option("--extend", "continue a finished run, whose epochs or step limits are raised")
ACCEPT_CHANGES: Final = Option(
    "--accept-changes",
    "resume although code, data or versions have changed since the run began; its record says what",
)
JOIN_TIMEOUT: Final = Option(
    "--join-timeout", "how long ranks and nodes are waited for at the start; 600 if left out", "SECONDS"
)
RUN_OPTIONS: Final = (CONFIG, OVERRIDE, ALLOW, OVERWRITE, EXTEND, ACCEPT_CHANGES, JOIN_TIMEOUT)

LAUNCH_OPTIONS: Final = (
    Option("--nproc_per_node", "processes to start on this machine", "N"),
    Option("--nnodes", "machines, or the least and the most of them, 2:4", "N"),
    Option("--node_rank", "the number of this machine, from 0", "N"),
    Option("--rdzv_backend", "how machines find each other, c10d or static", "NAME"),
    Option("--rdzv_endpoint", "where they do", "HOST:PORT"),
    Option("--rdzv_id", "the name of the job, the same on all machines", "ID"),
    Option("--master_addr", "the machine of rank 0, where no backend is named", "HOST"),
    Option("--master_port", "its port", "PORT"),
    Option("--standalone", "one machine, any free port"),
    Option("--max_restarts", "how often to start processes again that failed", "N"),
    Option("--log_dir", "a folder for what the processes print", "FOLDER"),
    Option("--tee, -t", "what also goes there, 3 for all", "STREAMS"),
)
"""The options of torchrun that a run on several processes may need; its others are accepted in the same place."""
LAUNCH_SWITCHES: Final = (
    "--standalone",
    "-m",
    "--module",
    "--no_python",
    "--run_path",
    "--virtual_local_rank",
)
"""All options of torchrun that take no value."""

Suggest = Callable[[str, str], str]
"""Takes a flag that is not understood, and what it may mean if it is no option; returns what it means most likely.

Both meanings are texts that follow a semicolon, or empty.
"""


def names_of(options: Sequence[Option]) -> list[str]:
    """Return all spellings of options."""
    return [name for option in options for name in option.names]


def options_table(options: Sequence[Option]) -> str:
    """Return options with what they do, aligned, each from a line of its own."""
    from textwrap import fill

    entries = [option.shown for option in options]
    width = max((len(entry) for entry in entries if len(entry) <= WIDEST_ENTRY), default=0) + 4
    lines = []
    for entry, option in zip(entries, options, strict=True):
        text = fill(option.help, WIDTH, initial_indent=" " * width, subsequent_indent=" " * width)
        is_short = len(entry) <= WIDEST_ENTRY
        lines.append(f"  {entry}".ljust(width) + text[width:] if is_short else f"  {entry}\n{text}")
    return "\n".join(lines)


def suggest_run_option(flag: str, otherwise: str) -> str:
    """Suggest the option of a run that a misspelt flag most likely means."""
    return otherwise or near_option(flag, names_of((*RUN_OPTIONS, HELP)))


def near_option(flag: str, names: Sequence[str]) -> str:
    """Return `did you mean --x?`, or nothing where no option is near."""
    import difflib

    near = difflib.get_close_matches(flag, names, 1, 0.8)
    return f"did you mean {near[0]!r}?" if near else ""


class Call(NamedTuple):
    """A command line, sorted."""

    words: Sequence[str]
    """All of it, as typed."""
    arguments: list[str]
    """What stands in it without a dash; the first is the recipe, where one is named."""
    options: dict[str, list[str]]
    """The values of each option, by its first name; none for a switch."""
    overrides: list[str]
    """Overrides of a config, as typed."""
    launch: list[str]
    """Options of torchrun, with their values."""
    mistakes: list[Mistake]
    suggest: Suggest = suggest_run_option
    """What a flag may mean that turns out to be no field of the config."""

    @classmethod
    def of(cls, recipe: str, config: str, mistakes: Sequence[Mistake] = ()) -> "Call":
        """Return the call of a recipe with a config."""
        return cls((), [recipe] if recipe else [], {CONFIG.text: [config]}, [], [], list(mistakes))

    @property
    def recipe(self) -> str:
        """The name or the file of the recipe; empty where none is named."""
        return self.arguments[0] if self.arguments else ""

    @property
    def config(self) -> str | None:
        """The config that is named."""
        return self.value(CONFIG)

    @property
    def wants_help(self) -> bool:
        """True where `--help` is given."""
        return self.has(HELP)

    @property
    def allowed(self) -> list[str]:
        """The packages whose code is to be trusted."""
        return [name for text in self.values(ALLOW) for name in text.replace(",", " ").split()]

    def has(self, option: Option) -> bool:
        """Tell whether an option is given."""
        return option.names[0] in self.options

    def values(self, option: Option) -> list[str]:
        """Return all values of an option."""
        return self.options.get(option.names[0], [])

    def value(self, option: Option) -> str | None:
        """Return the value of an option; None where it is not given."""
        return next(iter(self.values(option)), None)

    def number(self, option: Option) -> int | None:
        """Return the value of an option that counts something; None where it is not given.

        Raises:
            ConfigError: It is not a number above 0.
        """
        text = self.value(option)
        if text is not None and not (text.isdecimal() and int(text)):
            raise ConfigError.of_word(option.text, f"expected a number above 0, got {text!r}")
        return None if text is None else int(text)


def read_words(
    words: Sequence[str],
    options: Sequence[Option],
    *,
    takes_launch: bool = False,
    suggest: Suggest = suggest_run_option,
) -> Call:
    """Sort the words of a command line; what is wrong with them is noted in the result.

    Args:
        words: The words after the program and its verb.
        options: Those that it takes, beside `--help`. With OVERRIDE among them, words that are no option are a recipe,
            and then overrides; otherwise they are arguments.
        takes_launch: An unknown option before the recipe is one of torchrun's.
        suggest: What an unknown option may mean.
    """
    call = Call(words, [], {}, [], [], [], suggest)
    known = {name: option for option in (*options, HELP) for name in option.names if option is not OVERRIDE}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        option = known.get(name)
        if option is not None and option.value:
            if not equals and rest and not rest[0].startswith("--") and rest[0] not in known:
                text = rest.pop(0)
            _set(call, option, name, text)
        elif option is not None and equals:
            call.mistakes.append(Mistake.of_word(word, "is not understood", f"{name} takes no value"))
        elif option is not None:
            call.options.setdefault(option.names[0], [])
        elif takes_launch and name.startswith("-") and not call.arguments and name != OVERRIDE.text:
            has_value = not equals and name[:2] + name[2:].replace("-", "_") not in LAUNCH_SWITCHES
            call.launch.extend([word, *([rest.pop(0)] if has_value and rest else [])])
        elif OVERRIDE in options and (name.startswith("-") or equals or call.arguments):
            call.overrides.append(word)
        elif name.startswith("-"):
            call.mistakes.append(Mistake.of_word(word, "is not understood", suggest(name, "")))
        else:
            call.arguments.append(_expanded(call, word, word))
    _prefer_packages_of(call)
    return call


def _prefer_packages_of(call: Call) -> None:
    """Let `recipes` and `configs_py` mean those of a named file's project, before ours are imported by these names."""
    for named in (call.recipe, call.config or ""):
        file = named.rpartition(":")[0] if ".py:" in named else named
        if file.endswith(".py"):
            prefer_packages_beside(file)


def _set(call: Call, option: Option, name: str, text: str) -> None:
    """Note the value of an option."""
    values = call.options.setdefault(option.names[0], [])
    if not text:
        call.mistakes.append(Mistake.of_word(name, "needs a value"))
    elif values and not option.repeats:
        call.mistakes.append(Mistake.of_word(f"{name} {text}", f"{name} is given twice"))
    elif option.choices and text not in option.choices:
        message = f"is {text!r}"
        call.mistakes.append(Mistake.of_word(name, message, f"{', '.join(option.choices)} are possible"))
    else:
        values.append(_expanded(call, f"{name} {text}", text))


def _expanded(call: Call, word: str, text: str) -> str:
    """Expand a `~` that no shell did: in `--config=~/x.yaml`, in quotes, in a list of words from Python."""
    try:
        return expand_path(text) if text.startswith("~") else text
    except ValueError as error:
        call.mistakes.append(Mistake.of_word(word, str(error)))
        return text
