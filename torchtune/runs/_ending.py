"""What a run says after its last step: where the model is, and what to do with it."""

import shlex
import sys
from collections.abc import Iterator

from torchtune.files import read_json
from torchtune.runs._folder import RunFolder


def closing_lines(folder: RunFolder) -> Iterator[str]:
    """Yield the lines that end a run: its results, the best step, and the next commands.

    Args:
        folder: The run's folder; a recipe that writes no model into it gets no line.
    """
    if not folder.final.is_dir():
        return
    yield f"finished: {folder.final} is the trained model"
    best = folder.read_record().get("best")
    if isinstance(best, dict):
        loss, step = best.get("validation_loss"), best.get("step")
        if folder.best.is_dir():
            yield f"best: {folder.best} has the lowest validation loss, {loss:.4f} after step {step}"
        elif step == 0:
            yield (
                f"best: the model before training has the lowest validation loss, {loss:.4f}; a lower optimizer.lr may"
                " help"
            )
    adapter_config = folder.final / "adapter_config.json"
    is_adapter = adapter_config.is_file()
    if is_adapter and not read_json(adapter_config).get("base_model_name_or_path"):
        return  # Without its base, an adapter neither answers nor can be merged.
    path = shlex.quote(str(folder.path))
    yield f"try it: tune alpaca_generate --config generate model_directory={path}"
    if is_adapter:
        yield f"merge it: tune convert {shlex.quote(str(folder.final))} merged"


def end_run(folder: RunFolder) -> None:
    """Record that a run is complete, and tell the user what it has left."""
    folder.finish()
    for line in closing_lines(folder):
        sys.stderr.write(f"{line}\n")
