"""Colour on a terminal, plain text in a pipe."""

import os
import re
import sys
from typing import Final, TextIO

from torchtune.config import ConfigError

STYLES: Final = {"head": ("bold", "red"), "location": ("cyan",), "path": ("bold",), "sentence": ()}
"""How the parts of a mistake are set apart."""

# ECMA-48, section 8.3.117 (SGR).
CODES: Final = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


def is_coloured(stream: TextIO) -> bool:
    """Tell whether a stream shows colour: a terminal does, unless NO_COLOR is set; FORCE_COLOR overrules both."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """Return text in the given styles, where the stream (standard output by default) shows colour."""
    if not styles or not text or not is_coloured(stream or sys.stdout):
        return text
    codes = ";".join(str(CODES[style]) for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


def painted_mistakes(error: ConfigError, stream: TextIO) -> str:
    """Return a list of mistakes with its head, locations and paths set apart."""
    return error.render(lambda text, part: paint(text, *STYLES[part], stream=stream))


def painted_yaml(text: str) -> str:
    """Return YAML with its keys and comments set apart, for standard output."""
    if not is_coloured(sys.stdout):
        return text
    keyed = re.sub(r"(?m)^([ -]*)([\w.-]+:)", lambda m: m[1] + paint(m[2], "cyan"), text)
    return re.sub(r"(?m)(^| {2})(# .*)$", lambda m: m[1] + paint(m[2], "dim"), keyed)
