"""The `tune` command: one verb a file, imported only when it is called."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchtune.config import Recipe

__all__ = ["guarded", "load_recipe", "main", "recipe_for", "run", "run_recipe", "usage"]

VERBS = {
    "ls": "list recipes and their configs",
    "cp": "copy a recipe or a config, to change it",
    "run": "run a recipe (the word may be left out)",
    "show": "print a resolved config, with --origins where each value came from",
    "export": "write the frozen YAML of a run",
    "validate": "find every mistake in a config, and what its model needs",
    "data": "show what a run would read, token by token, and its numbers",
    "schema": "write a JSON Schema of a recipe's YAML, for an editor",
    "plot": "draw the curves of runs, as a picture and a page",
    "diff": "compare two configs leaf by leaf, or a run with its command today",
    "import": "turn a YAML of the original torchtune into a config of ours",
    "completion": "print a script that lets bash, zsh or fish complete",
    "download": "fetch a model from the Hugging Face hub",
    "convert": "turn a checkpoint into a Hugging Face folder",
}

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


def usage() -> str:
    """Return the text of `tune --help`."""
    return USAGE.format(verbs="\n".join(f"  {verb:12}{words}" for verb, words in VERBS.items()))


def run() -> None:
    """Run `tune` as a program."""
    words = sys.argv[1:]
    if words and (
        words[0] == "run" or words[0] not in (*VERBS, "__complete", "help", "-h", "--help", "--version")
    ):
        from torchtune.internals import steady_heap

        steady_heap()
    sys.exit(main(words))


INTERRUPTED = 130
"""The exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it."""


def main(argv: Sequence[str]) -> int:
    """Run `tune` with arguments.

    Returns:
        The exit status: 0 done, 2 the user's input is wrong, 1 the run failed, 128 + n it was ended by signal n.
    """
    if unreadable := [word for word in argv if not _is_text(word)]:
        sys.stderr.write(f"tune: {unreadable[0]!a} is not UTF-8 text\n")
        return 2
    if len(argv) == 2 and argv[0] == "help" and argv[1] in VERBS:
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from torchtune import __version__

        sys.stdout.write(f"tune {__version__}\n")
        return 0
    if argv[0] in (*VERBS, "__complete"):
        verb = f"torchtune.cli._{argv[0].strip('_')}"
        return guarded(lambda words: import_module(verb).main(words), argv[1:])
    return guarded(lambda words: import_module("torchtune.cli._run").main(words), argv)


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes that the terminal sent and that are not its encoding
        return False
    return True


def load_recipe(name: str) -> "Recipe[Any]":
    """Return a registered recipe, or that of a Python file.

    Raises:
        ConfigError: There is none, or the file holds none.
    """
    from torchtune.cli._call import load_recipe as load

    return load(name)


def recipe_for(config: str | type) -> str:
    """Return the recipe that a config is for.

    Args:
        config: A registered name, a file as `--config` takes it, or a config class.

    Raises:
        ConfigError: It cannot be told.
    """
    from torchtune.cli._folder import recipe_for as find

    return find(config)


def run_recipe(recipe: "Recipe[Any]", argv: Sequence[str]) -> int:
    """Run a recipe's own file as a script: `python my_recipe.py --config ...`.

    Returns:
        The exit status, as `main` does.
    """
    from torchtune.cli._run import run_script

    return guarded(lambda words: run_script(recipe, words), argv)


def guarded(call: Any, argv: Sequence[str]) -> int:
    """Turn what ends a call into an exit status, and a user's mistake into its message."""
    try:
        status: int = call(argv)
    except KeyboardInterrupt as error:
        again = "the same command" + " without --overwrite" * ("--overwrite" in argv)
        said = str(error) or f"interrupted; {again} continues from the last checkpoint, if there is one"
        sys.stderr.write(f"\ntune: {said}\n")
        return getattr(error, "status", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `tune ls | head -1` does
        sys.stderr.close()
        return 1
    except Exception as error:
        from torchtune.cli._failure import report

        return report(error)
    return status
