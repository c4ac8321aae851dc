"""The summary that a run prints after its last step: the location of the model, and the next commands."""

import shlex
import sys
from collections.abc import Iterator

from torchtune.files import read_json
from torchtune.runs._folder import RunFolder


def closing_lines(folder: RunFolder) -> Iterator[str]:
    """Yield the summary of a finished run: its results, the best step, and the next commands.

    Args:
        folder: The run's folder; if it contains no trained model, nothing is yielded.
    """
    if not folder.final.is_dir():
        return
    yield f"finished: the trained model is in {folder.final}"
    best = folder.read_record().get("best")
    if isinstance(best, dict):
        loss, step = best.get("validation_loss"), best.get("step")
        if folder.best.is_dir():
            yield f"best: the model with the lowest validation loss ({loss:.4f}, step {step}) is in {folder.best}"
        elif step == 0:
            yield (
                f"best: validation loss never improved on {loss:.4f}, its value before training; try a lower"
                " optimizer.lr"
            )
    adapter_config = folder.final / "adapter_config.json"
    is_adapter = adapter_config.is_file()
    if is_adapter and not read_json(adapter_config).get("base_model_name_or_path"):
        return  # An adapter without a base model can neither generate nor be merged.
    path = shlex.quote(str(folder.path))
    yield f"try it: tune alpaca_generate --config generate model_directory={path}"
    if is_adapter:
        yield f"merge it: tune convert {shlex.quote(str(folder.final))} merged"


def finish_run(folder: RunFolder) -> None:
    """Record that a run has finished, and print its summary."""
    folder.finish()
    for line in closing_lines(folder):
        sys.stderr.write(f"{line}\n")
