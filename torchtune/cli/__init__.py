"""The `tune` program. Each of its commands is a file that is imported only when the command is called."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchtune.cli._command import Command

__all__ = ["commands", "load_command", "main", "run"]

USAGE = """\
usage: tune <recipe> --config <name or path> [--override key=value ...]
       tune <command> ...

A recipe is a program that trains a model or generates text. A config contains
all of its settings.

List the recipes and their configs:
  tune ls
Run a recipe with a config, then with some values changed:
  tune lora_finetune --config smollm2_135m_lora
  tune lora_finetune --config smollm2_135m_lora optimizer.lr=1e-4 batch_size=4
Show the documentation and value of every config field:
  tune lora_finetune --config smollm2_135m_lora --help
Run on two processes (torchrun options come before the recipe):
  tune --nproc_per_node 2 full_finetune --config smollm2_135m_full

commands:
{commands}

Run `tune <command> --help` for details. Exit status: 0 success, 1 the run
failed, 2 invalid input.
"""


LISTED_FIRST = ("ls", "cp", "run", "show", "export", "validate", "data", "schema", "plot", "diff")
"""The commands that `tune --help` lists first; the others follow in alphabetical order."""


def commands() -> dict[str, str]:
    """Return the names of all commands, with their lines in `tune --help`, without importing them.

    A command is a file `_<name>.py` in this package whose docstring begins with "`tune <name>`: ".
    """
    files = [file for folder in __path__ for file in os.listdir(folder)]  # noqa: PTH208 -- importing pathlib is slow
    names = sorted(file[1:-3] for file in files if file.startswith("_") and file.endswith(".py"))
    lines = {name: _summary(name) for name in dict.fromkeys((*LISTED_FIRST, *names))}
    return {name: line for name, line in lines.items() if line}


def _summary(name: str) -> str:
    """Return a command's line in `tune --help`, or an empty string if there is no such command."""
    head = f'"""`tune {name}`: '
    for folder in __path__:
        file = os.path.join(folder, f"_{name}.py")  # noqa: PTH118 -- importing pathlib is slow
        # OSError: there is no such file. ValueError: the name is not a valid file name.
        with suppress(OSError, ValueError), open(file, encoding="utf-8") as stream:  # noqa: PTH123
            line = stream.readline()
            if line.startswith(head):
                return line.removeprefix(head).strip().removesuffix('"""').removesuffix(".")
    return ""


def load_command(name: str) -> "Command":
    """Import a command's file and return its `COMMAND`."""
    command: Command = import_module(f"torchtune.cli._{name}").COMMAND
    return command


def run() -> None:
    """Run `tune` as a program."""
    args = sys.argv[1:]
    no_recipe = ("__complete", "help", "-h", "--help", "--version")
    if args and args[0] not in no_recipe and (args[0] == "run" or not _summary(args[0])):
        from torchtune.internals import configure_allocators

        configure_allocators(args)
    sys.exit(main(args))


def main(argv: Sequence[str]) -> int:
    """Run `tune` with arguments.

    Returns:
        The exit status: 0 success, 1 the run failed, 2 invalid input, 128 + n terminated by signal n.
    """
    # Python decodes invalid UTF-8 bytes as surrogates, which cannot be encoded again.
    unreadable = [arg for arg in argv if arg.encode(errors="replace").decode() != arg]
    if unreadable:
        sys.stderr.write(f"tune: {unreadable[0]!a} is not UTF-8 text\n")
        return 2
    if len(argv) == 2 and argv[0] == "help" and _summary(argv[1]):
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(
            USAGE.format(commands="\n".join(f"  {v:12}{line}" for v, line in commands().items()))
        )
        return 0 if argv else 2
    if argv[0] == "--version":
        from torchtune import __version__

        sys.stdout.write(f"tune {__version__}\n")
        return 0
    from torchtune.runs.console import report_errors

    if argv[0] == "__complete":
        return report_errors(lambda args: import_module("torchtune.cli._complete").main(args), argv[1:])
    name, args = (argv[0], argv[1:]) if _summary(argv[0]) else ("run", argv)
    return report_errors(lambda args: _call(name, args), args)


def _call(name: str, args: Sequence[str]) -> int:
    """Run a command with the arguments after its name."""
    command = load_command(name)
    call = command.read(args)
    if call.wants_help and not (command.show_recipe_help and call.recipe):
        sys.stdout.write(command.help)
        return 0
    if call.mistakes and not command.takes_overrides:  # otherwise, reported with the config's mistakes
        from torchtune.config import ConfigError

        raise ConfigError(call.mistakes, "the command line")
    if command.expects and not command.accepts(call):
        sys.stderr.write(f"tune {name} expects {command.expects}\n{command.help}")
        return 2
    if call.allowed:
        from torchtune.config import allow

        allow(*call.allowed)
    return (
        command.show_recipe_help(call) if command.show_recipe_help and call.wants_help else command.run(call)
    )
