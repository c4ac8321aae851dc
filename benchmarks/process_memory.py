"""The resident memory of this process (bytes)."""

import os
import resource
import sys
from pathlib import Path

PROC = Path("/proc/self")


def peak_bytes() -> int:
    """Return the largest resident set of this process so far."""
    try:
        # On Linux, `ru_maxrss` inherits the parent process's peak; VmHWM covers only this program.
        lines = (PROC / "status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Return the resident set of this process; without /proc, the largest so far."""
    try:
        pages = (PROC / "statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return peak_bytes()
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
