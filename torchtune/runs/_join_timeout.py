"""How long a run waits for its ranks and nodes to join."""

import os
from typing import Final

from torchtune.runs.command_line import JOIN_TIMEOUT, Call

_VARIABLE: Final = "TUNE_JOIN_TIMEOUT"
"""The environment variable by which ranks know the limit (seconds)."""
_DEFAULT: Final = 600.0


def join_timeout() -> float:
    """Return the limit (seconds): that of `--join-timeout`, or 600."""
    text = os.environ.get(_VARIABLE, "")
    try:
        return float(text) if text else _DEFAULT
    except ValueError:
        raise ValueError(f"{_VARIABLE}: expected a number of seconds, got {text!r}") from None


def set_join_timeout(call: Call) -> None:
    """Pass the limit of a command line on to this process and those that it starts.

    Raises:
        ConfigError: It is not a number above 0.
    """
    seconds = call.number(JOIN_TIMEOUT)
    if seconds is not None:
        os.environ[_VARIABLE] = str(seconds)
