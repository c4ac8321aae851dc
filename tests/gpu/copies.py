"""Asynchronous copies from the device of `tests.gpu.device` to the host, and pinned memory."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

_pending: list[Callable[[], object]] = []
"""Asynchronous copies to the host that have not arrived yet."""
NOT_ARRIVED = 77
"""Elements of a new tensor on the host before they arrive."""


def arriving(destination: Tensor, copied: Tensor) -> Tensor:
    """Return a tensor on the host that receives its elements when the host waits for the device."""
    _pending.append(lambda: destination.copy_(copied))
    return destination


def wait_for_copies() -> None:
    while _pending:
        _pending.pop(0)()


class Event:
    """Replaces `torch.cuda.Event`."""

    def record(self) -> None:
        """Do nothing: all operators before this call are already computed."""

    def query(self) -> bool:
        """Return whether all copies have arrived."""
        return not _pending

    def synchronize(self) -> None:
        """Complete all pending copies."""
        wait_for_copies()


class Stream:
    """The only stream of the device."""

    def synchronize(self) -> None:
        """Complete all pending copies."""
        wait_for_copies()


def is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor, "is_pinned_stand_in", False)


def with_pinning(factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a factory of CPU tensors that supports `pin_memory`."""

    def make(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        tensor = factory(*args, **kwargs)
        if pin_memory:
            tensor.is_pinned_stand_in = True  # type: ignore[attr-defined]  # the mark of this file
        return tensor

    return make
