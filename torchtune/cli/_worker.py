"""One rank of a run: it reads the config that the parent froze, and runs the recipe."""

import atexit
import json
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from torchtune.cli._nodes import note_started
from torchtune.runs.console import INTERRUPTED, failure_of


def main(argv: Sequence[str]) -> int:
    """Run one rank.

    Args:
        argv: The recipe, the frozen file, and `--file F` for each Python file that the user named.
    """
    from torchtune.config.model import trust_folder_of
    from torchtune.runs import load_recipe

    note_started()
    recipe_name, file, *rest = argv
    for named in rest[1::2]:
        trust_folder_of(named)
    recipe = load_recipe(recipe_name)
    recipe.main(recipe.layers(file).build(f"the config of {recipe.name}"))
    return 0


def answered(argv: Sequence[str]) -> int:
    """Run one rank, and leave what went wrong to the parent, which says it once for all ranks.

    Returns:
        The exit status.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    outcome: list[int] = []
    atexit.register(_leave, outcome)  # registered before all others, so called after them
    try:
        outcome.append(main(argv))
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"tune: {str(error) or 'interrupted'}\n")
        outcome.append(getattr(error, "status", INTERRUPTED))
    except Exception as error:
        failure = failure_of(error)
        file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if file is None:
            sys.stderr.write(failure.text)
        else:
            sentence = "" if failure.details else failure.message
            record = {"message": failure.text, "sentence": sentence, "is_echo": _is_echo(error)}
            record["timestamp"] = int(time.time())  # which torchrun asks for, as it does for the message
            Path(file).write_text(json.dumps(record), encoding="utf-8")
        sys.stdout.flush()
        os._exit(failure.status)  # without waiting for threads that talk to ranks which are gone
    return outcome[0]


def _leave(outcome: list[int]) -> None:
    """End the process before the interpreter takes itself down, if the rank has an exit status.

    Threads of gloo may still hold tensors then. One that lets go of its last reference waits for an interpreter that is
    gone, and aborts the process: "terminate called without an active exception" (pytorch/pytorch, pull request 179291).
    """
    if outcome:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(outcome[0])


def _end_with(parent: int) -> None:
    """End when the launcher has: it starts ranks in sessions of their own, which a kill of it does not reach."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(INTERRUPTED)


def _is_echo(error: Exception) -> bool:
    """Tell whether an error is what another rank's end looks like from here: gloo's, nccl's or the store's."""
    import torch.distributed as dist

    of_torch = isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))
    return of_torch and re.search(r"[Cc]onnection|[Tt]imed? ?out|remote process|peer", str(error)) is not None


if __name__ == "__main__":
    sys.exit(answered(sys.argv[1:]))
