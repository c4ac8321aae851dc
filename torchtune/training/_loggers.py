"""The loggers of a run, whose errors do not end it."""

from collections.abc import Callable, Mapping, Sequence

from torchtune.utils.metric_logging import MetricLogger


class Loggers:
    """Several loggers as one; a logger that raises is reported and removed.

    Args:
        loggers: In the order in which they are called.
        note: Writes a line for the user.
    """

    def __init__(self, loggers: Sequence[MetricLogger], note: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._note = note

    def log_dict(self, metrics: Mapping[str, float | int], step: int) -> None:
        """Pass one step's metrics on to every logger."""
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

    def _report(self, logger: MetricLogger, what: str, error: Exception) -> None:
        message = str(error).partition("\n")[0] or "no message"
        self._note(
            f"note: {type(logger).__name__} {what}, the run continues without it: {type(error).__name__}: {message}"
            " (metrics.jsonl has every step)"
        )
