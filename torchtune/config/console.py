"""What a user reads when a call ends or has something to say: in colour on a terminal, plain text in a pipe."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from torchtune.config._mistakes import ConfigError, InstantiationError

if TYPE_CHECKING:
    from torchtune.config._layers import Layers

OWN_PACKAGES: Final = ("torchtune", "recipes", "configs_py")
INTERRUPTED: Final = 130
"""The exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it."""
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


def print_note(text: str, label: str = "note:") -> None:
    """Tell the user something on stderr that is no mistake."""
    sys.stderr.write(f"{paint(label, 'yellow', stream=sys.stderr)} {text}\n")


def print_notes(layers: "Layers") -> None:
    """Print the notes of a config, such as arguments that a swap of a component dropped."""
    for note in layers.notes:
        print_note(note)


def guarded(call: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Turn what ends a call into an exit status, and a user's mistake into its message."""
    try:
        return call(argv)
    except KeyboardInterrupt as error:
        command = "the same command" + " without --overwrite" * ("--overwrite" in argv)
        hint = f"interrupted; {command} continues from the last checkpoint, if there is one"
        sys.stderr.write(f"\ntune: {str(error) or hint}\n")
        return getattr(error, "status", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `tune ls | head -1` does
        sys.stderr.close()
        return 1
    except Exception as error:
        return report(error)


def report(error: Exception) -> int:
    """Print what went wrong: the message alone for a mistake, a traceback for a defect.

    Returns:
        The exit status: 2 for the user's input, 1 for a run that failed.
    """
    import traceback

    if isinstance(error, ConfigError):
        sys.stderr.write(f"{painted_mistakes(error, sys.stderr)}\n")
        return 2
    if isinstance(error, InstantiationError):
        if _is_plain(error.__cause__):
            sys.stderr.write(f"tune: {error}\n")
            return 2
        traceback.print_exception(error.__cause__)
        sys.stderr.write(f"tune: the run failed: {error}\n")
        return 1
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, OSError) and error.strerror and not _is_of_the_user(files):
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"tune: {where}{error.strerror}\n")
        return 1
    failed = isinstance(error, (FloatingPointError, MemoryError))
    if (_is_plain(error) or failed) and files and _is_ours(files[-1]):
        sys.stderr.write(f"tune: {error}\n")
        return 1 if failed or type(error) is OSError else 2
    traceback.print_exception(error)
    sys.stderr.write(f"tune: the run failed: {type(error).__name__}: {error}\n")
    return 1


def _is_plain(error: BaseException | None) -> bool:
    """Tell whether an exception's message is written for the user."""
    return error is None or (
        isinstance(error, (ValueError, LookupError, OSError))
        and not isinstance(error, (KeyError, IndexError))
    )


def _is_ours(file: str) -> bool:
    root = Path(__file__).resolve().parents[2]
    return file.startswith(tuple(str(root / name) for name in OWN_PACKAGES))


def _is_of_the_user(files: Sequence[str]) -> bool:
    """Tell whether an exception passed through a Python file that the user named."""
    from torchtune.config._trust import current_trust

    return any(file in current_trust().files for file in files)
