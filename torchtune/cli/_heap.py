"""A heap that keeps what a step gives back, for the next step."""

import os
import sys

TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "tcache_count": 0,
        "mxfast": 0,
        "mmap_threshold": 32 * 2**20,
        "trim_threshold": 2**40,
    }.items()
)
"""What glibc's allocator is told.

torch asks for aligned blocks, whose cut-off ends would go to small objects that stay; between them the freed blocks of
a step no longer fit the next one's tensors, and the process grows by a quarter to a third within some steps. Without
caches of small blocks the ends are merged again. And memory that every step uses is not given back to the system in
between: each page that comes anew is a fault and is filled with zeros.
"""


def steady_heap() -> None:
    """Start this process again with `TUNABLES`, which glibc reads at a process's start alone.

    Where the environment has GLIBC_TUNABLES, even an empty one, or the C library is another, nothing is done.
    """
    if "GLIBC_TUNABLES" in os.environ or not sys.executable or not _is_glibc():
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- it is this very program


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):  # not a Unix, or not its name
        return False
