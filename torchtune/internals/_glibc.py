"""Settings of glibc's allocator and of oneDNN's caches, which both read from the environment when they start."""

import os
import sys

from torchtune.internals._internal import Internal

TUNABLES = (
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:"
    f"glibc.malloc.mmap_threshold={32 * 2**20}:glibc.malloc.trim_threshold={2**40}"
)
"""Settings of glibc's allocator.

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
    another, the process is not started again.
    """
    if KERNEL_CACHES.is_enabled():
        for name, capacity in CACHES.items():
            os.environ.setdefault(name, capacity)
    if "GLIBC_TUNABLES" in os.environ or not sys.executable or not _glibc_version() or not HEAP.is_enabled():
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- it is this very program


def _glibc_version() -> str:
    """Return glibc's version, such as `2.36`; nothing where the C library is another."""
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # not a Unix, or not its name
        return ""
    return version if library == "glibc" else ""


def _has_tunables() -> bool:
    """Tell whether this glibc has settings of such names: since 2.26."""
    return tuple(map(int, _glibc_version().split("."))) >= (2, 26)


HEAP = Internal(
    name="heap settings",
    written_for="glibc 2.36",
    gain='memory: the line "the heap as glibc has it" of '
    'python -m benchmarks.training MODEL ROWS --cases "lora fp32" --ablate',
    fallback="the process is not started again, and grows by up to a third",
    probe=_has_tunables,
)
KERNEL_CACHES = Internal(
    name="kernel caches",
    written_for="torch 2.13.0",
    gain='memory: the line "1,024 kernels cached" of '
    'python -m benchmarks.training MODEL ROWS --cases "lora bf16" --ablate',
    fallback="the caches keep 1,024 kernels each",
    probe=lambda: True,  # a variable that a library no longer reads does no harm
)
