"""What a user sees when something ends a call: the message alone for a mistake, a traceback for a defect."""

import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from torchtune.cli._style import painted_mistakes
from torchtune.config import ConfigError, InstantiationError
from torchtune.config.model import current_trust

OWN_FOLDERS = tuple(
    str(Path(__file__).resolve().parents[2] / name) for name in ("torchtune", "recipes", "configs_py")
)


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


def report(error: Exception) -> int:
    """Print what went wrong, and return the exit status."""
    failure = failure_of(error)
    sys.stderr.write(failure.text)
    return failure.status


def failure_of(error: Exception) -> Failure:
    """Return what is reported of an error: the message alone for a mistake, a traceback for a defect."""
    if isinstance(error, ConfigError):
        return Failure(2, details=f"{painted_mistakes(error, sys.stderr)}\n")
    if isinstance(error, InstantiationError):
        if _is_plain(error.__cause__):
            return Failure(2, str(error))
        return Failure(1, f"the run failed: {error}", _traceback(error.__cause__))
    if isinstance(error, OSError) and error.strerror and not _raised_by_the_user(error):
        return Failure(1, ": ".join(str(part) for part in (error.filename, error.strerror) if part))
    failed = isinstance(error, (FloatingPointError, MemoryError))
    if (_is_plain(error) or failed) and _raised_by_us(error):
        return Failure(1 if failed or type(error) is OSError else 2, str(error))
    return Failure(1, f"the run failed: {type(error).__name__}: {error}", _traceback(error))


def _traceback(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error))


def _is_plain(error: BaseException | None) -> bool:
    """Tell whether an exception's message is written for the user."""
    return error is None or (
        isinstance(error, (ValueError, LookupError, OSError))
        and not isinstance(error, (KeyError, IndexError))
    )


def _raised_by_the_user(error: Exception) -> bool:
    """Tell whether an exception was raised in, or by a call from, a Python file that the user named."""
    files = current_trust().files
    return any(frame.filename in files for frame in traceback.extract_tb(error.__traceback__))


def _raised_by_us(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(OWN_FOLDERS)
