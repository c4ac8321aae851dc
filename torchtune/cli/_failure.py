"""What a user sees when something ends a call: the message alone for a mistake, a traceback for a defect."""

import sys
import traceback
from pathlib import Path

from torchtune.cli._style import painted_mistakes
from torchtune.config import ConfigError, InstantiationError
from torchtune.config.model import current_trust

OWN_FOLDERS = tuple(
    str(Path(__file__).resolve().parents[2] / name) for name in ("torchtune", "recipes", "configs_py")
)


def report(error: Exception) -> int:
    """Print what went wrong, and return the exit status: 2 for the user's input, 1 for a run that failed."""
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
    if isinstance(error, OSError) and error.strerror and not _raised_by_the_user(error):
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"tune: {where}{error.strerror}\n")
        return 1
    failed = isinstance(error, (FloatingPointError, MemoryError))
    if (_is_plain(error) or failed) and _raised_by_us(error):
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


def _raised_by_the_user(error: Exception) -> bool:
    """Tell whether an exception was raised in, or by a call from, a Python file that the user named."""
    files = current_trust().files
    return any(frame.filename in files for frame in traceback.extract_tb(error.__traceback__))


def _raised_by_us(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(OWN_FOLDERS)
