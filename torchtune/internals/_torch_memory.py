"""Counting the memory of tensors that hold nothing: storages followed by their addresses."""

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchtune.internals._internal import Internal


def fake_tensors() -> AbstractContextManager[object]:
    """Return a context in which tensors have shapes and no contents, and those that are there already may be used."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's are untyped
    """Adds up the bytes of the tensors that are alive and were made within it.

    Args:
        known: Tensors that are not counted, nor are views of them.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {_identity(tensor.untyped_storage()) for tensor in known}
        self.peak = self.now = 0
        self.peak_of_layers: int | None = None
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = _identity(storage), storage.nbytes()
        if key in self._sizes or key in self._known:
            return
        self._sizes[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def note_beginning(self, _module: object, _inputs: object, output: Tensor) -> None:
        """Note the peak so far once the backward pass comes to this output."""
        if output.requires_grad:
            output.register_hook(self._note_layers)  # type: ignore[no-untyped-call]

    def _note_layers(self, _gradient: Tensor) -> None:
        self.peak_of_layers, self.peak = self.peak, self.now

    def exclude_gradient(self, parameter: Tensor) -> None:
        """Count a parameter's gradient no more, which is counted elsewhere."""
        if parameter.grad is not None:
            self._forget(_identity(parameter.grad.untyped_storage()))

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _identity(storage: torch.UntypedStorage) -> int:
    identity: int = storage._cdata  # a storage without contents has no other address
    return identity


def _counts_what_lives() -> bool:
    with fake_tensors():
        known = torch.empty(8, device="cpu")
        with LiveBytes([known]) as live:
            first = known.view(2, 4) + 1  # 32 bytes, of a view of what is known
            second = first.flatten() + 1  # 32 bytes more
            del first
    return (live.peak, live.now, second.numel()) == (64, 32, 8)


LIVE_BYTES = Internal(
    name="memory of activations",
    written_for="torch 2.13.0",
    gain="activations in estimates: tune validate --memory lora_finetune --config smollm2_135m_lora",
    fallback="estimates count weights, gradients and optimizer state alone",
    probe=_counts_what_lives,
)
