"""The `tune` command: one verb a file, imported only when it is called."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchtune.cli._verb import Verb

__all__ = ["load_verb", "main", "run", "verbs"]

USAGE = """\
usage: tune <recipe> --config <name or path> [--override key=value ...]
       tune <verb> ...

A recipe is a program that trains or generates; a config is all that it reads.

What there is; a run; one with other values; every field with its documentation;
a run on two processes (torchrun's options stand before the recipe):

  tune ls
  tune lora_finetune --config smollm2_135m_lora
  tune lora_finetune --config smollm2_135m_lora optimizer.lr=1e-4 batch_size=4
  tune lora_finetune --config smollm2_135m_lora --help
  tune --nproc_per_node 2 full_finetune --config smollm2_135m_full

verbs:
{verbs}

`tune <verb> --help` says more. Exit status: 0 done, 2 the input is wrong,
1 the run failed.
"""


FIRST = ("ls", "cp", "run", "show", "export", "validate", "data", "schema", "plot", "diff")
"""The verbs that `tune --help` lists first; the others follow by their names."""


def verbs() -> dict[str, str]:
    """Return the line of each verb in `tune --help`, by its name, without importing any.

    A verb is a file `_<name>.py` of this package whose docstring begins with "`tune <name>`: ".
    """
    files = [file for folder in __path__ for file in os.listdir(folder)]  # noqa: PTH208 -- see `tune cp`
    names = sorted(file[1:-3] for file in files if file.startswith("_") and file.endswith(".py"))
    lines = {name: _summary(name) for name in dict.fromkeys((*FIRST, *names))}
    return {name: line for name, line in lines.items() if line}


def _summary(name: str) -> str:
    """Return a verb's line; empty where there is no such verb."""
    head = f'"""`tune {name}`: '
    for folder in __path__:
        file = os.path.join(folder, f"_{name}.py")  # noqa: PTH118 -- see `tune cp`
        # OSError: there is no such file; ValueError: its name is one that none can have.
        with suppress(OSError, ValueError), open(file, encoding="utf-8") as stream:  # noqa: PTH123
            line = stream.readline()
            if line.startswith(head):
                return line.removeprefix(head).strip().removesuffix('"""').removesuffix(".")
    return ""


def load_verb(name: str) -> "Verb":
    """Import the file of a verb."""
    verb: Verb = import_module(f"torchtune.cli._{name}").VERB
    return verb


def run() -> None:
    """Run `tune` as a program."""
    words = sys.argv[1:]
    others = ("__complete", "help", "-h", "--help", "--version")
    if words and words[0] not in others and (words[0] == "run" or not _summary(words[0])):
        from torchtune.internals import steady_heap

        steady_heap()
    sys.exit(main(words))


def main(argv: Sequence[str]) -> int:
    """Run `tune` with arguments.

    Returns:
        The exit status: 0 done, 2 the user's input is wrong, 1 the run failed, 128 + n it was ended by signal n.
    """
    # Bytes that are not UTF-8 arrive as surrogates, which cannot be encoded.
    unreadable = [word for word in argv if word.encode(errors="replace").decode() != word]
    if unreadable:
        sys.stderr.write(f"tune: {unreadable[0]!a} is not UTF-8 text\n")
        return 2
    if len(argv) == 2 and argv[0] == "help" and _summary(argv[1]):
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(USAGE.format(verbs="\n".join(f"  {v:12}{line}" for v, line in verbs().items())))
        return 0 if argv else 2
    if argv[0] == "--version":
        from torchtune import __version__

        sys.stdout.write(f"tune {__version__}\n")
        return 0
    from torchtune.runs.console import guarded

    if argv[0] == "__complete":
        return guarded(lambda words: import_module("torchtune.cli._complete").main(words), argv[1:])
    name, words = (argv[0], argv[1:]) if _summary(argv[0]) else ("run", argv)
    return guarded(lambda words: _call(name, words), words)


def _call(name: str, words: Sequence[str]) -> int:
    """Run a verb with the words after it."""
    verb = load_verb(name)
    call = verb.read(words)
    if call.wants_help and not (verb.explain and call.recipe):
        sys.stdout.write(verb.help)
        return 0
    if call.mistakes and not verb.takes_overrides:  # else they are listed with those of the config
        from torchtune.config import ConfigError

        raise ConfigError(call.mistakes, "the command line")
    if verb.takes and not verb.fits(call):
        sys.stderr.write(f"tune {name} takes {verb.takes}\n{verb.help}")
        return 2
    if call.allowed:
        from torchtune.config import allow

        allow(*call.allowed)
    return verb.explain(call) if verb.explain and call.wants_help else verb.run(call)
