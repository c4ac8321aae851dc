"""Settings of glibc's allocator and of kernel caches, which are read from the environment at startup."""

import os
import sys

from torchtune.internals._probed_feature import ProbedFeature

TUNABLES = (
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:"
    f"glibc.malloc.mmap_threshold={32 * 2**20}:glibc.malloc.trim_threshold={2**40}"
)
"""Settings of glibc's allocator.

torch allocates aligned blocks. By default, the trimmed ends of these blocks are reused for small, long-lived objects.
Blocks that are freed between such objects are too small for the tensors of the next step, so the memory of the process
grows by a quarter to a third within a few steps. If caches of small blocks are disabled, the ends are merged with their
neighbours. Memory that every step uses is not returned to the system between steps, because each returned page would
cause a page fault and would be zeroed again.
"""

CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
"""Capacities of the kernel caches of oneDNN and of torch's layer above oneDNN; the default is 1,024 kernels.

Each shape needs a kernel of half a megabyte. The shapes of packed batches differ between steps, so the memory of a
bfloat16 run would grow by 10 MB per step until the caches are full. A step has about twenty shapes, the same in every
layer.
"""


def limit_heap_growth() -> None:
    """Limit the kernel caches, and restart this process with `TUNABLES`, which glibc reads only when a process starts.

    Existing environment variables are kept. The process is not restarted if GLIBC_TUNABLES is set, even to an
    empty value, or if the C library is not glibc.
    """
    if KERNEL_CACHES.is_enabled():
        for name, capacity in CACHES.items():
            os.environ.setdefault(name, capacity)
    if "GLIBC_TUNABLES" in os.environ or not sys.executable or not _glibc_version() or not HEAP.is_enabled():
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- restarts this program


def _glibc_version() -> str:
    """Return glibc's version, such as `2.36`; empty if the C library is not glibc."""
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # not a Unix system, or the name is not supported
        return ""
    return version if library == "glibc" else ""


def _has_tunables() -> bool:
    """Return whether this version of glibc supports `TUNABLES` (2.26 or later)."""
    return tuple(map(int, _glibc_version().split("."))) >= (2, 26)


HEAP = ProbedFeature(
    name="heap settings",
    tested_with="glibc 2.36",
    benefit='runs use less memory, as measured in the line "glibc\'s default heap" of '
    'python -m benchmarks.training MODEL ROWS --cases "lora fp32" --ablate',
    fallback="the process is not restarted, and its memory grows by up to a third",
    probe=_has_tunables,
)
KERNEL_CACHES = ProbedFeature(
    name="kernel caches",
    tested_with="torch 2.13.0",
    benefit='runs use less memory, as measured in the line "1,024 kernels cached" of '
    'python -m benchmarks.training MODEL ROWS --cases "lora bf16" --ablate',
    fallback="each cache holds up to 1,024 kernels",
    probe=lambda: True,  # a variable that a library no longer reads is harmless
)
