"""Log a run's metrics, and read them back.

Every run writes `metrics.jsonl`. Additional destinations are components of the config (`metric_logger`), which a recipe
builds only on rank 0.
"""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal

import yaml
from attrs import define, field, frozen

from torchtune.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.tensorboard import SummaryWriter

Scalar = float | int
"""One metric's value at one step."""


class MetricLogger(ABC):
    """A destination for metrics, one optimizer step at a time.

    A subclass implements `log_dict`, which records the metrics of one step. `close` is called once, at the end of the
    run, even if the run fails. If a logger raises an exception, a note is printed and the run continues without it.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that must be installed in addition to torchtune's dependencies; otherwise the config is rejected."""

    @abstractmethod
    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Record metrics of one step.

        Args:
            metrics: Values by name, such as `{"loss": 1.5, "lr": 2e-5}`.
            step: The optimizer step, counted from 1.
        """

    def log(self, name: str, value: Scalar, step: int) -> None:
        """Record one metric of one step."""
        self.log_dict({name: value}, step)

    def close(self) -> None:  # noqa: B027 -- most loggers have nothing to close
        """Flush pending metrics and close files and connections; closing twice is harmless."""


def metric_line(metrics: Mapping[str, Scalar], step: int) -> str:
    """Format one step's metrics with full precision: `step=3 | loss=1.5 | lr=2e-05`."""
    return " | ".join([f"step={step}", *(f"{name}={value}" for name, value in metrics.items())])


class DiskLogger(MetricLogger):
    """Append one line of text per step to a file: `step=3 | loss=1.5 | lr=2e-05`.

    The file is opened for the first line and flushed after each line, so that you can follow it during the run. A
    resumed run appends to the file, which may therefore contain the steps after the last checkpoint twice;
    `metrics.jsonl` contains each step once.

    Args:
        log_dir: Folder for the log file; created if it does not exist.
        filename: Name of the file, or null for `log.txt`.

    Raises:
        ValueError: `filename` is not a plain file name.
    """

    def __init__(self, log_dir: str | os.PathLike[str], filename: str | None = None) -> None:
        if filename is not None and Path(filename).name != filename:
            raise ValueError(f"filename: expected the name of a file in log_dir, got {filename!r}")
        self.path = Path(log_dir) / (filename or "log.txt")
        self._file: IO[str] | None = None

    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Append the step's line.

        Raises:
            OSError: The folder cannot be created or the file cannot be written.
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(metric_line(metrics, step) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class StdoutLogger(MetricLogger):
    """Print one line of text per step to standard output: `step=3 | loss=1.5 | lr=2e-05`."""

    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Print the step's line."""
        print(metric_line(metrics, step), flush=True)


class TensorBoardLogger(MetricLogger):
    """Write scalars for TensorBoard; needs the package `tensorboard`.

    The event file is created for the first metric. A resumed run creates a new file; from its first step onwards,
    TensorBoard ignores the earlier files.

    Args:
        log_dir: Folder for the event files; created if it does not exist.
    """

    packages = ("tensorboard",)

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        check_packages(type(self))
        self._log_dir = log_dir
        self._writer: SummaryWriter | None = None

    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Write the step's scalars and flush them, so that they can be read immediately.

        Raises:
            OSError: The folder cannot be created or the file cannot be written.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._log_dir, purge_step=step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@define(eq=False, slots=False)
class WandBLogger(MetricLogger):
    """Send metrics to Weights & Biases; needs the package `wandb`.

    If `log_dir` is a run's folder, its frozen config is logged too. A resumed run continues the same W&B run, whose id
    is stored in `log_dir`.

    Args:
        log_dir: Folder for wandb's files (`wandb/`); created if it does not exist.
        project: The project's name.
        entity: Name of the team or user, or null for the account's default.
        group: A name shared by several runs, such as the name of an experiment.
        name: Name of the run, or null for the folder's name.
        mode: "offline" only writes files, which `wandb sync` can upload later.
    """

    packages = ("wandb",)

    _log_dir: str | os.PathLike[str]
    _project: str = "torchtune"
    _entity: str | None = None
    _group: str | None = None
    _name: str | None = None
    _mode: Literal["online", "offline"] = "online"
    # Any, because wandb, which defines the type, may not be installed.
    _run: Any = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        check_packages(type(self))

    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Send the step's metrics; the first call opens the run.

        Raises:
            Exception: Any error of wandb, such as a missing login.
        """
        if self._run is None:
            self._run = self._open()
        self._run.log(dict(metrics), step=step)

    def _open(self) -> Any:
        import wandb

        folder = Path(self._log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        id_file = RunFolder(folder).wandb_id
        run_id = id_file.read_text("utf-8").strip() if id_file.is_file() else None
        config = RunFolder(folder).config
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            group=self._group,
            name=self._name or folder.resolve().name,
            mode=self._mode,
            dir=folder,
            id=run_id,
            resume=None if run_id is None or self._mode == "offline" else "allow",
            config=yaml.safe_load(config.read_text("utf-8")) if config.is_file() else None,
        )
        id_file.write_text(run.id, "utf-8")
        return run

    def close(self) -> None:
        """Send the remaining metrics to wandb, and end its run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


class Loggers:
    """A list of loggers; a logger that raises an exception is reported and removed.

    Args:
        loggers: The loggers, in the order in which they are called.
        note: Prints a message for the user.
    """

    def __init__(self, loggers: Sequence[MetricLogger], note: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._note = note

    def log_dict(self, metrics: Mapping[str, float | int], step: int) -> None:
        """Pass one step's metrics to every logger."""
        for logger in list(self._loggers):
            try:
                logger.log_dict(metrics, step)
            except Exception as error:
                self._loggers.remove(logger)
                self._report(logger, f"failed at step {step}", error)

    def close(self) -> None:
        """Close every logger."""
        while self._loggers:
            logger = self._loggers.pop(0)
            try:
                logger.close()
            except Exception as error:
                self._report(logger, "could not be closed", error)

    def _report(self, logger: MetricLogger, failure: str, error: Exception) -> None:
        message = str(error).partition("\n")[0] or "no message"
        self._note(
            f"note: {type(logger).__name__} {failure}; the run continues without it: {type(error).__name__}: {message}"
            " (metrics.jsonl has every step)"
        )


def check_packages(logger: type[MetricLogger]) -> None:
    """Check that a logger's packages are installed.

    Raises:
        ValueError: A package is missing; the message contains the command that installs it.
    """
    for package in logger.packages:
        if find_spec(package) is None:
            raise ValueError(
                f"{logger.__name__} needs the package {package}; install it: pip install {package}"
            )


@frozen
class RunMetrics:
    """The contents of a run's `metrics.jsonl`."""

    lines: list[dict[str, Any]]
    """The objects in the file, in order: one for each optimizer step and one for each validation."""
    broken: list[int]
    """Line numbers, from 1, of unreadable lines, such as the last line of a killed run."""

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return the steps and finite values of a metric; for a repeated step, the last value is returned."""
        values_by_step: dict[int, float] = {}
        for line in self.lines:
            value = line.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value):
                values_by_step[line["step"]] = value
        return sorted(values_by_step.items())

    def frame(self) -> "pd.DataFrame":
        """Return a data frame with `step` as its index and a column for each metric.

        Missing values are NaN: a skipped step has no loss, and most steps have no `validation_loss`.
        """
        import pandas as pd

        steps: dict[int, dict[str, Any]] = {}
        for line in self.lines:
            values = {name: value for name, value in line.items() if value is not None}
            steps.setdefault(line["step"], {}).update(values)
        names = dict.fromkeys(name for line in self.lines for name in line)
        table = pd.DataFrame([steps[step] for step in sorted(steps)], columns=list(names or ["step"]))
        return table.set_index("step")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that is too large for a float
        return False


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line number, from 1, and the JSON value of each non-empty line; None for unreadable lines."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        yield number, value


def read_metrics(run: str | os.PathLike[str]) -> RunMetrics:
    """Read a run's metrics; the run may still be in progress.

    Args:
        run: The run's folder, or its `metrics.jsonl`.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be read.
    """
    path = Path(run)
    path = RunFolder(path).metrics if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a run's folder: it contains no metrics.jsonl")
    lines = []
    broken = []
    for number, values in json_lines(path):
        if isinstance(values, dict) and type(values.get("step")) is int:
            lines.append(values)
        else:
            broken.append(number)
    return RunMetrics(lines, broken)


COMPONENT_KINDS = (MetricLogger,)
"""Classes whose subclasses are accepted as components in fields without a declared type."""
