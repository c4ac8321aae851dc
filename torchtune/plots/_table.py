"""Compute the tables of `tune plot`: a row for each run, and the differences between their configs."""

import statistics
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from torchtune.config.model import ABSENT, differences, inline_yaml
from torchtune.plots._run import PlottedRun

HEADERS = ("run", "steps", "last loss", "best validation", "tokens/s", "peak memory", "state")
NO_VALUE = "\N{EN DASH}"
"""Text for a missing value."""


@frozen
class Leaf:
    """A leaf of the configs that differs between runs."""

    path: str
    values: list[str]
    """The value in each run, as YAML; a dash if the leaf or the config is missing."""


def row_of(run: PlottedRun) -> list[str]:
    """Return a run's summary, one cell for each of `HEADERS`."""
    metrics = run.metrics
    loss, validation = metrics.series("loss"), metrics.series("validation_loss")
    speed, memory = metrics.series("tokens_per_second"), metrics.series("peak_memory_bytes")
    best = min(validation, key=lambda point: point[1], default=None)
    return [
        run.name,
        _steps(run, len(loss)),
        f"{loss[-1][1]:.4f}" if loss else NO_VALUE,
        f"{best[1]:.4f} at step {best[0]:,}" if best else NO_VALUE,
        # The median is shown because the first steps are slow.
        f"{statistics.median(value for _, value in speed):,.0f}" if speed else NO_VALUE,
        f"{max(value for _, value in memory) / 2**30:.2f} GiB" if memory else NO_VALUE,
        run_state(run),
    ]


def _steps(run: PlottedRun, n_with_loss: int) -> str:
    steps = {line["step"] for line in run.metrics.lines if "loss" in line}
    if not steps:
        return "0"
    skipped = len(steps) - n_with_loss
    return f"{max(steps):,}" + (f" ({skipped:,} skipped)" if skipped else "")


def run_state(run: PlottedRun) -> str:
    """Return a run's progress as text; without a record, it is unknown whether the run has finished."""
    if "finished" in run.record:
        return "finished"
    if not run.metrics.lines:
        return "no step yet"
    step = f"step {max(line['step'] for line in run.metrics.lines):,}{_total_steps(run.config)}"
    return f"unfinished, {step}" if run.record else step


def _total_steps(config: dict[str, Any]) -> str:
    """Return the total number of steps as text; empty if it depends on the size of the dataset."""
    steps = config.get("max_steps")
    if isinstance(steps, int):
        return f" of {steps:,}"
    steps_per_epoch = config.get("max_steps_per_epoch")
    epochs = config.get("epochs")
    if isinstance(steps_per_epoch, int) and isinstance(epochs, int):
        return f" of at most {steps_per_epoch * epochs:,}"
    return ""


def differing_leaves(runs: Sequence[PlottedRun]) -> list[Leaf]:
    """Compare the configs of runs, leaf by leaf.

    Output folders, and paths in them, count as equal. The seed is the last leaf.
    """
    trees = [_without_folder(run.config) for run in runs if run.config]
    if len(trees) < 2:
        return []
    # All configs are compared with the first, so leaves without a difference have the value of the first config.
    changes = [{d.path: d for d in differences(trees[0], tree)} for tree in trees]
    first = {path: d.left for run_changes in changes for path, d in run_changes.items()}
    leaves = iter([first | {path: d.right for path, d in run_changes.items()} for run_changes in changes])
    columns = [next(leaves) if run.config else dict.fromkeys(first, ABSENT) for run in runs]
    paths = sorted(first, key=lambda path: path == "seed")
    return [Leaf(path, [_as_text(column[path]) for column in columns]) for path in paths]


def _as_text(value: Any) -> str:
    return NO_VALUE if value is ABSENT else inline_yaml(value)


def _without_folder(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config without its output folder; paths in the folder are replaced with references to it."""
    folder = config.get("output_dir")
    others = {name: value for name, value in config.items() if name != "output_dir"}
    relative_config: dict[str, Any] = (
        _with_references(others, folder) if isinstance(folder, str) and folder else others
    )
    return relative_config


def _with_references(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_references(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_references(inner, folder) for inner in value]
    if isinstance(value, str) and (value == folder or value.startswith(f"{folder}/")):
        return f"${{output_dir}}{value.removeprefix(folder)}"
    return value
