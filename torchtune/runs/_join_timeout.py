"""The time limit for all ranks to join at the start of a run."""

import os
from typing import Final

from torchtune.runs.command_line import JOIN_TIMEOUT, Call

_VARIABLE: Final = "TUNE_JOIN_TIMEOUT"
"""The environment variable that passes the limit (seconds) to the ranks."""
_DEFAULT: Final = 600.0


def join_timeout() -> float:
    """Return the limit (seconds): the value of `--join-timeout`, 600 by default."""
    text = os.environ.get(_VARIABLE, "")
    try:
        return float(text) if text else _DEFAULT
    except ValueError:
        raise ValueError(f"{_VARIABLE}: expected a number of seconds, got {text!r}") from None


def set_join_timeout(call: Call) -> None:
    """Set the limit from a command line, for this process and its child processes.

    Raises:
        ConfigError: The value is not an integer above 0.
    """
    seconds = call.number(JOIN_TIMEOUT)
    if seconds is not None:
        os.environ[_VARIABLE] = str(seconds)
