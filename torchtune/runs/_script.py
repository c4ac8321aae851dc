"""Run a recipe's file as a program."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchtune.config import allow
from torchtune.config.model import trust_folder_of
from torchtune.runs._flags import print_help
from torchtune.runs._join_timeout import set_join_timeout
from torchtune.runs._resume import resume_options
from torchtune.runs.command_line import RUN_OPTIONS, parse_command_line
from torchtune.runs.console import print_notes, report_errors

if TYPE_CHECKING:
    from torchtune.runs._recipe import Recipe


def run_recipe(recipe: "Recipe[Any]", argv: Sequence[str]) -> int:
    """Run a recipe's file as a program: `python my_recipe.py --config ...`.

    Returns:
        The exit status: 0 for success, 2 for invalid input, 1 for a failed run, 128 + n after signal n.
    """
    return report_errors(lambda args: _run_script(recipe, args), argv)


def _run_script(recipe: "Recipe[Any]", argv: Sequence[str]) -> int:
    file = Path(recipe.main.__code__.co_filename)
    trust_folder_of(file)
    # Dotpaths resolve to the objects of the running script, rather than to duplicates from a second import.
    sys.modules.setdefault(file.stem, sys.modules[recipe.main.__module__])
    call = parse_command_line([str(file), *argv], RUN_OPTIONS)
    allow(*call.allowed)
    layers = recipe.layers_of_call(call)
    if call.wants_help:
        print_help(layers, recipe.name, recipe.__doc__ or "")
        return 0
    print_notes(layers)
    set_join_timeout(call)
    recipe.run(layers, resume_options(call), [*sys.argv])
    return 0
