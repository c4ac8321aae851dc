"""Errors that mean that memory ran out, whichever library raises them."""

import errno
import mmap
from contextlib import suppress
from typing import Final

_TEXTS: Final = (
    "DefaultCPUAllocator",  # torch, as a RuntimeError
    "failed to map segment from shared object",  # the loader of shared libraries, as an ImportError
    "Cannot allocate memory",
    "std::bad_alloc",
)
_RESERVED: Final = 768 * 2**20
"""Bytes of address space that explaining takes: importing torch's fake tensors, and a model of them."""


def means_no_memory(error: BaseException) -> bool:
    """Tell whether an error of Python, torch or the system means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, (RuntimeError, ImportError, OSError)) and any(t in str(error) for t in _TEXTS)


class Reserve:
    """Address space that is set aside, and released where an error is to be explained after memory ran out.

    It is never touched, so it takes no memory. It counts only where a process may have so much address space and no
    more (`ulimit -v`), and there the explanation would otherwise fail as the run did.
    """

    def __init__(self) -> None:
        self._space: mmap.mmap | None = None
        with suppress(OSError, ValueError):  # there is not even that much
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._space = mmap.mmap(-1, _RESERVED, flags=flags, prot=mmap.PROT_READ)

    def release(self) -> None:
        """Let others have the space."""
        if self._space is not None:
            self._space.close()
            self._space = None
