"""The operators that made the host wait for the device of `tests.gpu.device`, and code sections that forbid waiting."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from attrs import frozen

from tests.gpu.copies import wait_for_copies
from tests.gpu.errors import fail

_OWN_FILES = (
    str(Path(torch.__file__).parent),
    *(str(Path(__file__).with_name(name)) for name in ("waits.py", "device.py")),
)
"""Path prefixes of torch's files and of the files that implement the device."""


@frozen
class Wait:
    """An operator that makes the host wait for the device."""

    operator: str
    location: str
    """The file, line and function of the innermost caller outside torch."""


waits: list[Wait] = []
"""All operators so far that made the host wait for the device."""
_FORBIDDEN: list[str] = []
"""Sections of the program in which the host must not wait; empty outside such sections."""


@contextmanager
def no_waits(section: str) -> Iterator[None]:
    """Make operators raise RuntimeError if they cause the host to wait for the device.

    Args:
        section: The section of the program, for the message.
    """
    _FORBIDDEN.append(section)
    try:
        yield
    finally:
        _FORBIDDEN.pop()


def forbids_waits() -> bool:
    """Return whether the program is in a section in which the host must not wait."""
    return bool(_FORBIDDEN)


def record_wait(operator: object) -> None:
    """Record an operator that makes the host wait, and fail if the host must not wait."""
    wait = Wait(str(operator), _caller())
    waits.append(wait)
    wait_for_copies()
    if _FORBIDDEN:
        fail(f"{operator}: the host waits for the device in {_FORBIDDEN[-1]}, at {wait.location}")


def _caller() -> str:
    """Return the location of the innermost caller outside torch and the device."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_OWN_FILES):
            return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return "an internal torch thread"
