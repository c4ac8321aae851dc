"""Streams without a GPU: operations run at once, but races between streams are detected as on a GPU."""

import weakref
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from torchtune.placement._offload import Copy, CopyStream

Clock = dict[str, int]
"""The number of operations of each stream, by name, that have certainly been done."""


class Event:
    """The operations that were current when a stream recorded this event."""

    def __init__(self, clock: Clock) -> None:
        self.clock = dict(clock)
        self.copy_name = ""


class FakeStream:
    """A stream with a vector clock: the operations of all streams that are done before its next operation."""

    def __init__(self, name: str, device: "FakeDevice") -> None:
        self.name = name
        self.clock: Clock = {name: 0}
        self._device = device

    def wait_event(self, event: Event) -> None:
        self._device.events.append(f"wait for {event.copy_name}")
        self._merge(event.clock)

    def wait_stream(self, other: "FakeStream") -> None:
        self._merge(other.clock)

    def _merge(self, clock: Clock) -> None:
        self.clock = {n: max(self.clock.get(n, 0), clock.get(n, 0)) for n in {*self.clock, *clock}}

    def record_event(self) -> Event:
        return Event(self.clock)

    def __enter__(self) -> None:
        self._device.current.append(self)

    def __exit__(self, *error: object) -> None:
        self._device.current.pop()


class Accesses:
    """The last operation of each stream that wrote or read some memory."""

    def __init__(self) -> None:
        self.writes: Clock = {}
        self.reads: Clock = {}
        self.is_on_device = True


class FakeDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves __init_subclass__ untyped
    """A device with a compute stream and a copy stream, on the CPU.

    There are two kinds of race. An operation may run before another stream has written its inputs, or has read memory
    that it overwrites. Memory of the device may be freed before the copy stream is done with it: the compute stream
    allocates it again.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.compute = FakeStream("compute", self)
        self.current = [self.compute]
        self.races: list[str] = []
        self.events: list[str] = []
        self.copies = RecordingCopyStream(self)
        self._accesses = WeakIdKeyDictionary(ref_type=weakref.ref)

    def accesses(self, tensor: Tensor) -> Accesses:
        storage = tensor.untyped_storage()
        if storage not in self._accesses:
            self._accesses[storage] = Accesses()
            weakref.finalize(storage, self._free, self._accesses[storage])
        accesses: Accesses = self._accesses[storage]
        return accesses

    def _free(self, accesses: Accesses) -> None:
        if accesses.is_on_device:
            self._check(self.compute, accesses.reads, "memory was freed")
            self._check(self.compute, accesses.writes, "memory was freed")

    def _check(self, stream: FakeStream, required: Clock, access: str) -> None:
        if any(stream.clock.get(name, 0) < n for name, n in required.items()):
            self.races.append(f"{access} too early on {stream.name}: {stream.clock}, not {required}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if func._schema.is_mutable:
            outputs, inputs = inputs[:1], inputs[1:]
        else:
            outputs = []
        stream = self.current[-1]
        for tensor in inputs:
            self._check(stream, self.accesses(tensor).writes, f"{func} read")
        for tensor in outputs:
            accesses = self.accesses(tensor)
            self._check(stream, accesses.writes, f"{func} wrote")
            self._check(stream, accesses.reads, f"{func} wrote")
        out = func(*args, **kwargs or {})
        stream.clock[stream.name] += 1
        shared = {id(self.accesses(t)) for t in inputs}
        for tensor in inputs:
            self.accesses(tensor).reads[stream.name] = stream.clock[stream.name]
        created = [
            t for t in tree_leaves(out) if isinstance(t, Tensor) and id(self.accesses(t)) not in shared
        ]
        for tensor in [*outputs, *created]:  # allocation counts as writing
            self.accesses(tensor).writes[stream.name] = stream.clock[stream.name]
        return out


class RecordingCopyStream(CopyStream):
    """A stream that records its copies, and the names of the inputs: x0 is the first that a pass copies."""

    def __init__(self, device: FakeDevice) -> None:
        stream = FakeStream("copies", device)
        super().__init__(cast("torch.Stream", stream), lambda: cast("torch.Stream", device.compute))
        self.on_cpu: list[weakref.ref[Any]] = []
        """Storages in CPU memory, which are dead once freed."""
        self.on_device: list[weakref.ref[Any]] = []
        """Storages on the device, of sources in forward passes and targets in backward passes."""
        self._device = device
        self._names = WeakIdKeyDictionary(ref_type=weakref.ref)

    def start(self, source: Tensor, device: torch.device) -> Copy:
        copy = super().start(source, device)
        from_cpu = source.untyped_storage() in self._names
        if not from_cpu:
            self._names[copy.target.untyped_storage()] = f"x{len(live(self.on_cpu))}"
        on_cpu, on_device = (source, copy.target) if from_cpu else (copy.target, source)
        assert on_cpu.untyped_storage() is not on_device.untyped_storage()
        self._device.accesses(on_cpu).is_on_device = False  # torch waits before it reuses pinned memory
        name = self._names[on_cpu.untyped_storage()]
        self._device.events.append(f"copy {name} to {'device' if from_cpu else 'CPU'}")
        self.on_cpu += [] if from_cpu else [weakref.ref(on_cpu.untyped_storage())]
        self.on_device.append(weakref.ref(on_device.untyped_storage()))
        event = cast("Event", copy._done)
        event.copy_name = name
        return copy


def live(references: list[weakref.ref[Any]]) -> list[Any]:
    """Return the objects that still exist."""
    return [storage for reference in references if (storage := reference()) is not None]
