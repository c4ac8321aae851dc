"""Run one rank of a recipe with the config that the parent process froze."""

import atexit
import os
import sys
import threading
import time
from collections.abc import Sequence

from torchtune.cli._nodes import note_started
from torchtune.runs.console import INTERRUPTED, failure_of


def main(argv: Sequence[str]) -> int:
    """Run one rank.

    Args:
        argv: The recipe, the frozen config file, and `--file F` for each Python file on the user's command line.
    """
    from torchtune.config.model import trust_folder_of
    from torchtune.runs import load_recipe

    note_started()
    recipe_name, config_file, *file_options = argv
    for python_file in file_options[1::2]:
        trust_folder_of(python_file)
    recipe = load_recipe(recipe_name)
    recipe.main(recipe.layers(config_file).build(f"the config of {recipe.name}"))
    return 0


def run_rank(argv: Sequence[str]) -> int:
    """Run one rank, and record its error for the parent process, which reports a single error for all ranks.

    Returns:
        The exit status.
    """
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), name="parent", daemon=True).start()
    statuses: list[int] = []
    atexit.register(_exit_at_end, statuses)  # registered first, so called last
    try:
        statuses.append(main(argv))
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"tune: {str(error) or 'interrupted'}\n")
        statuses.append(getattr(error, "status", INTERRUPTED))
    except Exception as error:
        from torchtune.distributed import is_secondary, record_failure

        failure = failure_of(error)
        summary = "" if failure.details else failure.message
        record_failure(failure.text, summary=summary, is_secondary=is_secondary(error))
        sys.stdout.flush()
        os._exit(failure.status)  # do not wait for threads connected to ranks that have exited
    return statuses[0]


def _exit_at_end(statuses: list[int]) -> None:
    """Exit before the interpreter finalizes, if the rank has an exit status.

    Threads of gloo may still reference tensors during finalization. A thread that releases the last reference to a
    tensor then waits for the finalized interpreter and aborts the process: "terminate called without an active
    exception" (pytorch/pytorch, pull request 179291).
    """
    if statuses:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(statuses[0])


def _exit_with_parent(parent: int) -> None:
    """Exit after the launcher: ranks have their own sessions, so killing the launcher does not end them."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(run_rank(sys.argv[1:]))
