"""Where a run's metrics go besides `metrics.jsonl`, which every run writes by itself.

A logger is a component of the config (`metric_logger`); a recipe builds it on rank 0 alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO

Scalar = float | int
"""One metric's value at one step."""


class MetricLogger(ABC):
    """A destination for metrics, one optimizer step at a time.

    A subclass says what to do with the metrics of one step; the rest follows from it. `close` is called once, at
    the run's end, also when the run fails.
    """

    @abstractmethod
    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Record several metrics of one step.

        Args:
            metrics: Values by name, such as `{"loss": 1.5, "lr": 2e-5}`.
            step: Optimizer steps taken so far, from 1.
        """

    def log(self, name: str, value: Scalar, step: int) -> None:
        """Record one metric of one step."""
        self.log_dict({name: value}, step)

    def close(self) -> None:  # noqa: B027 -- most loggers have nothing to let go of.
        """Flush what is pending and let go of files and connections; closing twice is harmless."""


def metric_line(metrics: Mapping[str, Scalar], step: int) -> str:
    """Write one step's metrics as text, with every digit: `step=3 | loss=1.5 | lr=2e-05`."""
    return " | ".join([f"step={step}", *(f"{name}={value}" for name, value in metrics.items())])


class DiskLogger(MetricLogger):
    """Append one line of text a step to a file: `step=3 | loss=1.5 | lr=2e-05`.

    The file is opened at the first line and flushed after each, so that it can be followed while the run goes on.
    A continued run appends to it, and so may repeat the steps after its last checkpoint; `metrics.jsonl` has each
    step once.

    Args:
        log_dir: Folder of the file; made if it is missing.
        filename: The file's name; None is `log.txt`.

    Raises:
        ValueError: `filename` leads out of the folder.
    """

    def __init__(self, log_dir: str, filename: str | None = None) -> None:
        if filename is not None and Path(filename).name != filename:
            raise ValueError(f"filename: expected the name of a file in log_dir, got {filename!r}")
        self.path = Path(log_dir) / (filename or "log.txt")
        self._file: IO[str] | None = None

    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Append the step's line.

        Raises:
            OSError: The folder cannot be made or the file cannot be written.
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
    """Print one line of text a step to standard output: `step=3 | loss=1.5 | lr=2e-05`."""

    def log_dict(self, metrics: Mapping[str, Scalar], step: int) -> None:
        """Print the step's line."""
        print(metric_line(metrics, step), flush=True)
