"""Settings of glibc's allocator and oneDNN's caches, both read from the environment at startup."""

import os
import sys

from torchtune.internals._internal import Internal

TUNABLES = (
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:"
    f"glibc.malloc.mmap_threshold={32 * 2**20}:glibc.malloc.trim_threshold={2**40}"
)
"""Settings of glibc's allocator.

torch allocates aligned blocks, whose trimmed ends would be reused for small, long-lived objects. The blocks freed
between those no longer fit the tensors of the next step, and the process grows by a quarter to a third within some
steps. Without caches of small blocks, the ends are merged again. Memory that every step uses is not returned to the
system between steps, as each returned page would cause a page fault and be zeroed again.
"""

CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
"""Capacities of the kernel caches of oneDNN and of torch's layer above it, which hold 1,024 kernels by default.

Each shape needs a kernel of half a megabyte. Steps with packed batches differ in shape, so a bfloat16 run would grow by
10 MB per step until the caches are full. A step has about twenty shapes, which recur in every layer.
"""


def limit_heap_growth() -> None:
    """Limit the caches, and restart this process with `TUNABLES`, which glibc only reads when a process starts.

    Existing environment variables are kept. If GLIBC_TUNABLES is set, even if empty, or the C library is not glibc, the
    process is not restarted.
    """
    if KERNEL_CACHES.is_enabled():
        for name, capacity in CACHES.items():
            os.environ.setdefault(name, capacity)
    if "GLIBC_TUNABLES" in os.environ or not sys.executable or not _glibc_version() or not HEAP.is_enabled():
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- it is this program


def _glibc_version() -> str:
    """Return glibc's version, such as `2.36`; empty if the C library is not glibc."""
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # not a Unix, or the name is unknown
        return ""
    return version if library == "glibc" else ""


def _has_tunables() -> bool:
    """Return whether this glibc supports these tunables (since 2.26)."""
    return tuple(map(int, _glibc_version().split("."))) >= (2, 26)


HEAP = Internal(
    name="heap settings",
    written_for="glibc 2.36",
    gain='memory: the line "glibc\'s default heap" of '
    'python -m benchmarks.training MODEL ROWS --cases "lora fp32" --ablate',
    fallback="the process is not restarted, and grows by up to a third",
    probe=_has_tunables,
)
KERNEL_CACHES = Internal(
    name="kernel caches",
    written_for="torch 2.13.0",
    gain='memory: the line "1,024 kernels cached" of '
    'python -m benchmarks.training MODEL ROWS --cases "lora bf16" --ablate',
    fallback="the caches hold 1,024 kernels each",
    probe=lambda: True,  # a variable that a library no longer reads is harmless
)
