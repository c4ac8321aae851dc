"""The options of a run, each declared once, and the reader of command lines.

`tune --help` imports this file, so it imports nothing that costs time.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from torchtune.config._mistakes import Mistake, did_you_mean

RECIPES: Final = "recipes"
CONFIGS: Final = "configs"
"""The registered names, for completion."""


class Option(NamedTuple):
    """An option, as the reader, the pages of help and completion know it."""

    names: tuple[str, ...]
    """Its spellings; the first is the one that a usage line shows."""
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
    def text(self) -> str:
        """The option with its value, as help shows it."""
        return " ".join(filter(None, [", ".join(self.names), self.value]))

    @property
    def usage(self) -> str:
        """The option as a usage line shows it."""
        text = " ".join(filter(None, [self.names[0], "|".join(self.choices) or self.value]))
        text += " ..." * (self.repeats and not text.endswith("..."))
        return text if self.required else f"[{text}]"


HELP: Final = Option(("--help", "-h"), "explain the call")
CONFIG: Final = Option(
    ("--config",), "the config to start from", "<name or path>", completes=(CONFIGS,), required=True
)
OVERRIDE: Final = Option(("--override",), "change fields of the config", "key=value ...", repeats=True)
ALLOW: Final = Option(("--allow",), "trust the code of a package", "PACKAGE", repeats=True)
OVERWRITE: Final = Option(
    ("--overwrite",),
    "start anew in an output_dir that holds a run: its config, record, metrics, checkpoints and result are removed,"
    " nothing else",
)
RUN_OPTIONS: Final = (CONFIG, OVERRIDE, ALLOW, OVERWRITE)

LAUNCH_OPTIONS: Final = (
    Option(("--nproc_per_node",), "processes to start on this machine", "N"),
    Option(("--nnodes",), "machines, or the least and the most of them, 2:4", "N"),
    Option(("--node_rank",), "the number of this machine, from 0", "N"),
    Option(("--rdzv_backend",), "how machines find each other, c10d or static", "NAME"),
    Option(("--rdzv_endpoint",), "where they do", "HOST:PORT"),
    Option(("--rdzv_id",), "the name of the job, the same on all machines", "ID"),
    Option(("--master_addr",), "the machine of rank 0, where no backend is named", "HOST"),
    Option(("--master_port",), "its port", "PORT"),
    Option(("--standalone",), "one machine, any free port"),
    Option(("--max_restarts",), "how often to start processes again that failed", "N"),
    Option(("--log_dir",), "a folder for what the processes print", "FOLDER"),
    Option(("--tee", "-t"), "what also goes there, 3 for all", "STREAMS"),
)
"""The options of torchrun that a run on several processes may need; its others are accepted in the same place."""
OTHER_LAUNCH_SWITCHES: Final = frozenset(
    {"-m", "--module", "--no_python", "--run_path", "--virtual_local_rank"}
)
"""The other options of torchrun that take no value."""

Suggest = Callable[[str, str], str]
"""Takes a flag that is not understood, and what it may mean if it is no option; returns what it means most likely.

Both meanings are texts that begin with `; `, or are empty.
"""


def names_of(options: Sequence[Option]) -> list[str]:
    """Return all spellings of options."""
    return [name for option in options for name in option.names]


def suggest_run_option(flag: str, otherwise: str) -> str:
    """Suggest the option of a run that a misspelt flag most likely means."""
    return otherwise or did_you_mean(flag, names_of((*RUN_OPTIONS, HELP)))


class Call(NamedTuple):
    """A command line, sorted."""

    words: Sequence[str] = ()
    """All of it, as typed."""
    arguments: Sequence[str] = ()
    """What stands in it without a dash; the first is the recipe, where one is named."""
    overrides: Sequence[str] = ()
    """Overrides of a config, as typed."""
    launch: Sequence[str] = ()
    """Options of torchrun, with their values."""
    options: Mapping[str, Sequence[str]] = MappingProxyType({})
    """The values of each option, by its first name; none for a switch."""
    mistakes: Sequence[Mistake] = ()
    suggest: Suggest = suggest_run_option
    """What a flag may mean that turns out to be no field of the config."""

    @classmethod
    def of(cls, recipe: str, config: str | None = None, mistakes: Sequence[Mistake] = ()) -> "Call":
        """Return the call of a recipe with a config."""
        options = {CONFIG.names[0]: [config]} if config is not None else {}
        return cls(arguments=[recipe] if recipe else [], options=options, mistakes=mistakes)

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

    def values(self, option: Option) -> Sequence[str]:
        """Return all values of an option."""
        return self.options.get(option.names[0], ())

    def value(self, option: Option) -> str | None:
        """Return the value of an option; None where it is not given."""
        return next(iter(self.values(option)), None)


def read_words(
    words: Sequence[str],
    options: Sequence[Option],
    *,
    takes_overrides: bool = True,
    takes_launch: bool = False,
    suggest: Suggest = suggest_run_option,
) -> Call:
    """Sort the words of a command line; what is wrong with them is noted in the result.

    Args:
        words: The words after the program and its verb.
        options: Those that it takes, beside `--help`.
        takes_overrides: Words that are no option are a recipe, and then overrides; otherwise they are arguments.
        takes_launch: An unknown option before the recipe is one of torchrun's.
        suggest: What an unknown option may mean.
    """
    reader = _Reader(options, takes_overrides, takes_launch, suggest)
    rest = list(words)
    while rest:
        reader.read(rest)
    return Call(
        words, reader.arguments, reader.overrides, reader.launch, reader.options, reader.mistakes, suggest
    )


class _Reader:
    """What is known of a command line up to some word."""

    def __init__(
        self, options: Sequence[Option], takes_overrides: bool, takes_launch: bool, suggest: Suggest
    ) -> None:
        self.arguments: list[str] = []
        self.overrides: list[str] = []
        self.launch: list[str] = []
        self.options: dict[str, list[str]] = {}
        self.mistakes: list[Mistake] = []
        self._known = {name: option for option in (*options, HELP) for name in option.names}
        self._takes_overrides = takes_overrides
        self._takes_launch = takes_launch
        self._suggest = suggest

    def read(self, rest: list[str]) -> None:
        """Read the first of the words that are left, and its value where it has one."""
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        option = self._known.get(name)
        if option is None or option is OVERRIDE:
            self._read_other(word, rest)
        elif option.value:
            self._set(option, name, text if equals else self._value(rest))
        elif equals:
            self.mistakes.append(Mistake(word, "", f"is not understood; {name} takes no value"))
        else:
            self.options.setdefault(option.names[0], [])

    def _read_other(self, word: str, rest: list[str]) -> None:
        """Read a word that is no option of this call, or begins its overrides."""
        name = word.partition("=")[0]
        is_dashed = word.startswith("-")
        if self._takes_launch and is_dashed and not self.arguments and name not in OVERRIDE.names:
            self.launch.append(word)
            if word == name and not _is_launch_switch(name) and rest:
                self.launch.append(rest.pop(0))
        elif self._takes_overrides and (is_dashed or "=" in word or self.arguments):
            self.overrides.append(word)
        elif is_dashed:
            self.mistakes.append(Mistake(word, "", f"is not understood{self._suggest(name, '')}"))
        else:
            self.arguments.append(word)

    def _value(self, rest: list[str]) -> str:
        if not rest or rest[0].startswith("--") or rest[0] in self._known:
            return ""
        return rest.pop(0)

    def _set(self, option: Option, name: str, text: str) -> None:
        if not text:
            self.mistakes.append(Mistake(name, "", "needs a value"))
        elif option.names[0] in self.options and not option.repeats:
            self.mistakes.append(Mistake(f"{name} {text}", "", f"{name} is given twice"))
        elif option.choices and text not in option.choices:
            message = f"is {text!r}; {', '.join(option.choices)} are possible"
            self.mistakes.append(Mistake(name, "", message))
        else:
            self.options.setdefault(option.names[0], []).append(text)


def _is_launch_switch(name: str) -> bool:
    """Tell whether an option of torchrun takes no value; `-` and `_` are one to it."""
    spelt = name[:2] + name[2:].replace("-", "_")
    return spelt in OTHER_LAUNCH_SWITCHES or any(
        spelt in option.names and not option.value for option in LAUNCH_OPTIONS
    )
