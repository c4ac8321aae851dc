"""Offloading of the inputs of checkpointed layers to CPU memory, while the device computes.

Copies run on a separate stream. During the forward pass of a layer, its input is copied to CPU memory. During the
recomputation and backward pass of a layer, the input of the checkpointed layer before it is copied to the device:

    compute stream | forward 0 | forward 1 | ... | forward n | backward n       | backward n-1     | ...
    copy stream    | x0 to CPU | x1 to CPU | ... |           | x(n-1) to device | x(n-2) to device | ...

The input of the last layer stays on the device, because the backward pass begins with it. At most two other inputs are
on the device at a time: the one in use and the one being copied.

The synchronization of the streams follows two rules. A copy waits for the compute stream, which computes its source and
may still use the memory that its target has been allocated in. The compute stream waits for a copy before it reads the
target, and before the source is freed. So all memory of the device is allocated and freed in the order of the compute
stream. `Tensor.record_stream` would be an alternative to the wait before freeing, but the allocator would then reuse
the memory only when the CPU, which runs ahead of the device, sees that the copy has finished: the peak would be higher,
and would vary. Pinned memory needs no such care, since torch does not reuse it before the copies that use it are done.
"""

import weakref
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class CopyStream:
    """A stream for copies between a device and CPU memory.

    Args:
        stream: The stream on which the copies run.
        compute_stream: Returns the stream on which the model runs.
    """

    def __init__(self, stream: torch.Stream, compute_stream: Callable[[], torch.Stream]) -> None:
        self.stream = stream
        self.compute_stream = compute_stream

    def start(self, source: Tensor, device: torch.device) -> "Copy":
        """Start to copy a tensor to a device; CPU memory is pinned if the source is on a GPU."""
        target = torch.empty_like(source, device=device, pin_memory=source.is_cuda)
        self.stream.wait_stream(self.compute_stream())
        with self.stream:
            target.copy_(source, non_blocking=True)
            return Copy(self, source, target, self.stream.record_event())


class Copy:
    """A copy that may still be running.

    Its tensors are freed only after `wait`, which is called at the latest when this object is deleted. That happens if
    an exception ends a pass, or if a backward pass needs only some of the layers.
    """

    def __init__(self, stream: CopyStream, source: Tensor, target: Tensor, done: torch.Event) -> None:
        self.source = source
        self.target = target
        self._stream = stream
        self._done: torch.Event | None = done

    def wait(self) -> Tensor:
        """Make the compute stream wait for the copy, and return the target."""
        if self._done is not None:
            self._stream.compute_stream().wait_event(self._done)
            self._done = None
        return self.target

    def __del__(self) -> None:
        """Make the compute stream, whose later operations may reuse the memory of the tensors, wait for the copy."""
        self.wait()


def copy_stream(device: torch.device) -> CopyStream | None:
    """Return a new stream for copies from and to a GPU; None for a device that computes in CPU memory."""
    if device.type != "cuda":
        return None
    return CopyStream(torch.Stream(device), partial(torch.accelerator.current_stream, device))


class _StoredInput:
    """The input of a layer, stored for the backward pass.

    Args:
        tensor: The input, in CPU memory if it was offloaded.
        device: The device on which the layer runs.
        stream: The stream for copies to the device; None: the input is on the device.
        previous: Returns the input that was stored before this one, if it still exists.
    """

    def __init__(
        self,
        tensor: Tensor,
        device: torch.device,
        stream: CopyStream | None,
        previous: "Callable[[], _StoredInput | None]",
    ) -> None:
        self.previous = previous
        self._tensor = tensor
        self._device = device
        self._stream = stream
        self._copy: Copy | None = None

    def prefetch(self) -> None:
        """Start to copy the input to the device, unless it is there or on its way."""
        if self._stream is not None and self._copy is None:
            self._copy = self._stream.start(self._tensor, self._device)

    def load(self) -> Tensor:
        """Return the input on the device, for work on the compute stream; a later call copies it again."""
        self.prefetch()
        if self._copy is None:
            return self._tensor
        copy, self._copy = self._copy, None
        return copy.wait()


class InputOffload:
    """Moves the inputs of checkpointed layers to CPU memory in the forward pass, and back for the backward pass.

    Inputs belong to the graph of their forward pass, and are freed with it. Between passes, this object refers to none
    of them, unless an exception ended a forward pass: then the next pass frees the input that was being copied.

    Args:
        stream_of: Returns the stream for copies from and to a device, as `copy_stream` does.
    """

    def __init__(self, stream_of: Callable[[torch.device], CopyStream | None] = copy_stream) -> None:
        self._stream_of = stream_of
        self._streams: dict[torch.device, CopyStream | None] = {}
        self._copy: Copy | None = None
        """The latest copy to CPU memory, whose source may still be read."""
        self._newest: Callable[[], _StoredInput | None] = lambda: None
        """A weak reference to the newest input: a pass that is never followed by a backward pass must not keep it."""

    def hooks(self, *, is_last: bool) -> saved_tensors_hooks:
        """Return a context in which a checkpointed layer stores its input.

        Args:
            is_last: Whether no checkpointed layer follows, so that the input stays on the device.
        """
        return saved_tensors_hooks(partial(self._store, is_last=is_last), self._load)

    def _store(self, x: Tensor, *, is_last: bool) -> _StoredInput:
        if self._copy is not None:  # the layer with this input has run, so the copy has had time to finish
            self._copy.wait()
            self._copy = None
        if x.device not in self._streams:
            self._streams[x.device] = self._stream_of(x.device)
        stream = self._streams[x.device]
        if stream is None or is_last:
            stored = _StoredInput(x, x.device, None, self._newest)
        else:
            self._copy = stream.start(x, torch.device("cpu"))
            stored = _StoredInput(self._copy.target, x.device, stream, self._newest)
        self._newest = weakref.ref(stored)
        return stored

    def _load(self, stored: _StoredInput) -> Tensor:
        x = stored.load()
        previous = stored.previous()
        if previous is not None:
            previous.prefetch()
        return x
