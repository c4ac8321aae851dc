"""Find a function's caller through Python's frames."""

import sys
from types import FrameType

from torchtune.internals._probed_feature import ProbedFeature


def calling_frame(depth: int) -> FrameType | None:
    """Return the frame `depth` calls above the caller's; None if `CALLS` is disabled.

    `inspect.currentframe` would have the same effect, but would import the module `inspect`.
    """
    return sys._getframe(depth + 1) if CALLS.is_enabled() else None


def _finds_line() -> bool:
    """Return whether a code object's positions (one per two bytes) contain the line of the current instruction."""
    frame = sys._getframe()
    instruction, expected = frame.f_lasti, frame.f_lineno
    return list(frame.f_code.co_positions())[instruction // 2][0] == expected


CALLS = ProbedFeature(
    name="line numbers of calls",
    tested_with="Python 3.11",
    benefit="origins contain the line of each argument of a component: "
    "tune show lora_finetune --config smollm2_135m_lora --origins",
    fallback="values and mistakes are located at the first line of their config function",
    probe=_finds_line,
)
