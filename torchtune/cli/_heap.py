"""What a run's process tells libraries of C that read it from the environment, when they start, about memory."""

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

CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
"""How many kernels oneDNN, and torch's layer above it, keep: one for each shape, of half a megabyte, of the last 1,024.

No two steps of packed rows have the same shapes, so of bfloat16 a run would grow by 10 MB a step until they are full. A
step has about twenty shapes, each of which comes in every layer.
"""


def steady_heap() -> None:
    """Bound the caches, and start this process again with `TUNABLES`, which glibc reads at a process's start alone.

    What the environment sets already stays. Where it has GLIBC_TUNABLES, even an empty one, or the C library is
    another, the process goes on.
    """
    for name, capacity in CACHES.items():
        os.environ.setdefault(name, capacity)
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
