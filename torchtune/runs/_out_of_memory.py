"""Recognize out-of-memory errors from any library."""

import errno
import mmap
import re
from contextlib import suppress
from typing import Final

_MESSAGES: Final = re.compile(
    r"DefaultCPUAllocator|std::bad_alloc|Cannot allocate memory"  # torch, as a RuntimeError
    r"|failed to map segment from shared object"  # the dynamic loader, as an ImportError
    r"|CUDA error: out of memory|\bCU(BLAS|DNN)_STATUS_(\w+_)?ALLOC(ATION)?_FAILED"
    r"|Cuda failure (\d+ )?'out of memory'|(?s:unhandled cuda error.*out of memory)"  # NCCL
)
_RESERVED: Final = 768 * 2**20
"""Bytes of address space for explaining an error, which imports fake tensors and builds a model from them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error from Python, torch or the system means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return (
        isinstance(error, (RuntimeError, ImportError, OSError)) and _MESSAGES.search(str(error)) is not None
    )


class Reserve:
    """Reserved address space, which is released to explain an error after memory ran out.

    The space is never accessed, so it uses no memory. It matters only if the address space of a process is limited
    (`ulimit -v`): without it, the explanation would run out of memory as well.
    """

    def __init__(self) -> None:
        self._space: mmap.mmap | None = None
        with suppress(OSError, ValueError):  # the limit is too low for the reserve
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._space = mmap.mmap(-1, _RESERVED, flags=flags, prot=mmap.PROT_READ)

    def release(self) -> None:
        """Release the address space."""
        if self._space is not None:
            self._space.close()
            self._space = None
