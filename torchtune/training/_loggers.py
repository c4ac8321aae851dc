"""The loggers of a run, none of which can end it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Logger(Protocol):
    """Where metrics go besides, such as a `torchtune.utils.metric_logging.MetricLogger`."""

    def log_dict(self, metrics: Mapping[str, float | int], step: int) -> None:
        """Record several metrics of one optimizer step."""

    def close(self) -> None:
        """Let go of files and connections."""


class Loggers:
    """Several loggers as one; what one of them raises is told, and it is asked no more.

    Args:
        loggers: In the order in which they are told.
        tell: Writes a line for the user.
    """

    def __init__(self, loggers: Sequence[Logger], tell: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._tell = tell

    def log_dict(self, metrics: Mapping[str, float | int], step: int) -> None:
        """Pass one step's metrics on to every logger."""
        for logger in list(self._loggers):
            try:
                logger.log_dict(metrics, step)
            except Exception as error:
                self._loggers.remove(logger)
                self._report(logger, f"failed at step {step} and is asked no more", error)

    def close(self) -> None:
        """Close every logger."""
        while self._loggers:
            logger = self._loggers.pop(0)
            try:
                logger.close()
            except Exception as error:
                self._report(logger, "could not be closed", error)

    def _report(self, logger: Logger, what: str, error: Exception) -> None:
        kind = type(error).__name__
        said = str(error).partition("\n")[0] or "no reason given"
        self._tell(
            f"note: {type(logger).__name__} {what}, the run goes on without it: {kind}: {said}"
            " (metrics.jsonl has every step)"
        )
