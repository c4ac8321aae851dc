"""Find a function's caller through Python's frames."""

import sys
from types import FrameType

from torchtune.internals._internal import Internal


def calling_frame(depth: int) -> FrameType | None:
    """Return the frame `depth` calls above the caller's; None if `CALLS` is disabled.

    `inspect.currentframe` would do the same but import inspect.
    """
    return sys._getframe(depth + 1) if CALLS.is_enabled() else None


def _knows_its_line() -> bool:
    """Return whether the line of a frame's instruction is found in its code's positions (one per two bytes)."""
    frame = sys._getframe()
    instruction, expected = frame.f_lasti, frame.f_lineno
    return list(frame.f_code.co_positions())[instruction // 2][0] == expected


CALLS = Internal(
    name="calling lines",
    written_for="Python 3.11",
    gain="lines of components' arguments: tune show lora_finetune --config smollm2_135m_lora --origins",
    fallback="values and mistakes are located at the first line of their config function",
    probe=_knows_its_line,
)
