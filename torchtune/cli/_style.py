"""Colour on a terminal, plain text in a pipe."""

import os
import re
import sys
from typing import Final, TextIO

from torchtune.config import ConfigError

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
    """Return a list of mistakes with its head, origins and paths set apart."""
    head, *lines = str(error).splitlines()
    shown = [paint(head, "bold", "red", stream=stream)]
    for mistake, line in zip(error.mistakes, lines, strict=True):
        rest = line[2:]
        origin, path = mistake.origin, mistake.path
        if origin and rest.startswith(f"{origin}: "):
            rest = rest.removeprefix(f"{origin}: ")
        else:
            origin = ""
        if path and rest.startswith(f"{path}: "):
            rest = rest.removeprefix(f"{path}: ")
        else:
            path = ""
        parts = [paint(origin, "cyan", stream=stream), paint(path, "bold", stream=stream), rest]
        shown.append("  " + ": ".join(part for part in parts if part))
    return "\n".join(shown)


def painted_yaml(text: str) -> str:
    """Return YAML with its keys and comments set apart, for standard output."""
    if not is_coloured(sys.stdout):
        return text
    keyed = re.sub(r"(?m)^([ -]*)([\w.-]+:)", lambda m: m[1] + paint(m[2], "cyan"), text)
    return re.sub(r"(?m)(^| {2})(# .*)$", lambda m: m[1] + paint(m[2], "dim"), keyed)
