"""What a user reads when a call ends or has something to say: in colour on a terminal, plain text in a pipe."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from torchtune._own_packages import PACKAGES, folder_of
from torchtune.config import ConfigError, InstantiationError

if TYPE_CHECKING:
    from torchtune.config.model import Layers

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C: 128 and the number of SIGINT, as shells have it."""
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
        failure = failure_of(error)
        sys.stderr.write(failure.text)
        return failure.status


class Failure(NamedTuple):
    """What is reported of an error that ends a call."""

    status: int
    """The exit status: 2 for the user's input, 1 for a run that failed."""
    message: str = ""
    """One sentence."""
    details: str = ""
    """What stands above it: a list of mistakes, which needs no sentence, or a traceback."""

    @property
    def text(self) -> str:
        """The whole text, as it is printed."""
        return self.details + (f"tune: {self.message}\n" if self.message else "")


def failure_of(error: Exception) -> Failure:
    """Return what is reported of an error: the message alone for a mistake, a traceback for a defect."""
    import traceback

    from torchtune.runs._no_memory import means_no_memory

    if isinstance(error, ConfigError):
        return Failure(2, details=f"{painted_mistakes(error, sys.stderr)}\n")
    if isinstance(error, InstantiationError):
        if _is_plain(error.__cause__):
            return Failure(2, str(error))
        return Failure(1, f"the run failed: {error}", _traceback(error.__cause__))
    if means_no_memory(error) and not isinstance(error, MemoryError):  # such as an import of torch
        return Failure(1, f"memory ran out: {error}")
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, OSError) and error.strerror and not _is_of_the_user(files):
        return Failure(1, ": ".join(str(part) for part in (error.filename, error.strerror) if part))
    failed = isinstance(error, (FloatingPointError, MemoryError))
    if (_is_plain(error) or failed) and files and _is_ours(files[-1]):
        return Failure(1 if failed or type(error) is OSError else 2, str(error))
    return Failure(1, f"the run failed: {type(error).__name__}: {error}", _traceback(error))


def _traceback(error: BaseException | None) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _is_plain(error: BaseException | None) -> bool:
    """Tell whether an exception's message is written for the user."""
    return error is None or (
        isinstance(error, (ValueError, LookupError, OSError))
        and not isinstance(error, (KeyError, IndexError))
    )


def _is_ours(file: str) -> bool:
    return file.startswith(tuple(map(folder_of, ("torchtune", *PACKAGES))))


def _is_of_the_user(files: Sequence[str]) -> bool:
    """Tell whether an exception passed through a Python file that the user named."""
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
