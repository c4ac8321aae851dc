"""How long a run waits at the start for all ranks to join."""

import os
from typing import Final

from torchtune.runs.command_line import JOIN_TIMEOUT, Call

_VARIABLE: Final = "TUNE_JOIN_TIMEOUT"
"""The environment variable that passes the limit (seconds) to ranks."""
_DEFAULT: Final = 600.0


def join_timeout() -> float:
    """Return the limit (seconds): the value of `--join-timeout`, 600 by default."""
    text = os.environ.get(_VARIABLE, "")
    try:
        return float(text) if text else _DEFAULT
    except ValueError:
        raise ValueError(f"{_VARIABLE}: expected a number of seconds, got {text!r}") from None


def set_join_timeout(call: Call) -> None:
    """Set the limit from a command line, for this process and those that it starts.

    Raises:
        ConfigError: The value is not an integer above 0.
    """
    seconds = call.number(JOIN_TIMEOUT)
    if seconds is not None:
        os.environ[_VARIABLE] = str(seconds)
