"""Messages for the user: notes, errors and exit statuses, coloured on a terminal but not in a pipe."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from torchtune._bundled_packages import BUNDLED_PACKAGES, folder_of
from torchtune.config import ConfigError, InstantiationError

if TYPE_CHECKING:
    from torchtune.config.model import Layers

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C: 128 plus the number of SIGINT, as in shells."""
STYLES: Final = {"head": ("bold", "red"), "location": ("cyan",), "path": ("bold",), "sentence": ()}
"""The styles of the parts of a mistake."""
# ECMA-48, section 8.3.117 (SGR).
CODES: Final = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


def is_coloured(stream: TextIO) -> bool:
    """Return whether to colour a stream: if it is a terminal and NO_COLOR is not set, or if FORCE_COLOR is set."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """Return text in the given styles if the stream (standard output by default) is coloured."""
    if not styles or not text or not is_coloured(stream or sys.stdout):
        return text
    codes = ";".join(str(CODES[style]) for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


def painted_mistakes(error: ConfigError, stream: TextIO) -> str:
    """Return a list of mistakes with styled heading, locations and paths."""
    return error.render(lambda text, part: paint(text, *STYLES[part], stream=stream))


def print_note(text: str, label: str = "note:") -> None:
    """Print a note to stderr."""
    sys.stderr.write(f"{paint(label, 'yellow', stream=sys.stderr)} {text}\n")


def print_notes(layers: "Layers") -> None:
    """Print the notes of a config, such as arguments dropped when a component was replaced."""
    for note in layers.notes:
        print_note(note)


def report_errors(call: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Call a command's function and return its exit status; if it raises an error, print the message."""
    try:
        return call(argv)
    except KeyboardInterrupt as error:
        command = "the same command" + " without --overwrite" * ("--overwrite" in argv)
        hint = f"interrupted; run {command} to resume from the last checkpoint, if there is one"
        sys.stderr.write(f"\ntune: {str(error) or hint}\n")
        return getattr(error, "status", INTERRUPTED)
    except BrokenPipeError:  # the reader of stdout exited, as in `tune ls | head -1`
        sys.stderr.close()
        return 1
    except Exception as error:
        failure = failure_of(error)
        sys.stderr.write(failure.text)
        return failure.status


class Failure(NamedTuple):
    """The text to print and the exit status after an error."""

    status: int
    """The exit status: 2 for invalid input, 1 for a failed run."""
    message: str = ""
    """One sentence; empty if the details suffice."""
    details: str = ""
    """Text printed before the message: a list of mistakes, or a traceback."""

    @property
    def text(self) -> str:
        """The full text, as printed."""
        return self.details + (f"tune: {self.message}\n" if self.message else "")


def failure_of(error: Exception) -> Failure:
    """Return the text to print for an error: only the message for a user's mistake, a traceback for a bug."""
    import traceback

    from torchtune.runs._out_of_memory import is_out_of_memory

    if isinstance(error, ConfigError):
        return Failure(2, details=f"{painted_mistakes(error, sys.stderr)}\n")
    if isinstance(error, InstantiationError):
        if _is_user_facing(error.__cause__):
            return Failure(2, str(error))
        return Failure(1, f"the run failed: {error}", _traceback(error.__cause__))
    if is_out_of_memory(error) and not isinstance(error, MemoryError):  # for example, while importing torch
        return Failure(1, f"out of memory: {error}")
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, OSError) and error.strerror and not _passed_user_file(files):
        return Failure(1, ": ".join(str(part) for part in (error.filename, error.strerror) if part))
    failed = isinstance(error, (FloatingPointError, MemoryError))
    if (_is_user_facing(error) or failed) and files and _is_torchtune_file(files[-1]):
        return Failure(1 if failed or type(error) is OSError else 2, str(error))
    return Failure(1, f"the run failed: {type(error).__name__}: {error}", _traceback(error))


def _traceback(error: BaseException | None) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _is_user_facing(error: BaseException | None) -> bool:
    """Return whether an exception's message is written for the user."""
    return error is None or (
        isinstance(error, (ValueError, LookupError, OSError))
        and not isinstance(error, (KeyError, IndexError))
    )


def _is_torchtune_file(file: str) -> bool:
    return file.startswith(tuple(map(folder_of, ("torchtune", *BUNDLED_PACKAGES))))


def _passed_user_file(files: Sequence[str]) -> bool:
    """Return whether an exception passed through a Python file that the user passed to `tune`."""
    from torchtune.config.model import current_trust

    return any(file in current_trust().files for file in files)


def size_text(count: int) -> str:
    """Format a number of bytes in a suitable unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"
