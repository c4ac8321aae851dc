"""Measure the memory of fake tensors by tracking their storages."""

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchtune.internals._probed_feature import ProbedFeature


def fake_tensors() -> AbstractContextManager[object]:
    """Return a context in which new tensors have shapes but no data, and existing tensors can be used."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's methods are untyped
    """Counts the bytes of live tensors that were created within this context.

    Args:
        excluded: Tensors that, like their views, are not counted.
    """

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._excluded = {_identity(tensor.untyped_storage()) for tensor in excluded}
        self.peak = self.current = 0
        self.peak_of_layers: int | None = None
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = _identity(storage), storage.nbytes()
        if key in self._sizes or key in self._excluded:
            return
        self._sizes[key] = size
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._forget, key)

    def record_start_of_layers(self, _module: object, _inputs: object, output: Tensor) -> None:
        """Register a hook that records the peak so far when the backward pass reaches this output."""
        if output.requires_grad:
            output.register_hook(self._record_layers)  # type: ignore[no-untyped-call]

    def _record_layers(self, _gradient: Tensor) -> None:
        self.peak_of_layers, self.peak = self.peak, self.current

    def exclude_gradient(self, parameter: Tensor) -> None:
        """Stop counting a parameter's gradient, because the caller counts it separately."""
        if parameter.grad is not None:
            self._forget(_identity(parameter.grad.untyped_storage()))

    def _forget(self, key: int) -> None:
        self.current -= self._sizes.pop(key, 0)


def _identity(storage: torch.UntypedStorage) -> int:
    identity: int = storage._cdata  # a fake storage has no data pointer
    return identity


def _counts_live_tensors() -> bool:
    with fake_tensors():
        excluded = torch.empty(8, device="cpu")
        with LiveBytes([excluded]) as live:
            first = excluded.view(2, 4) + 1  # 32 bytes; the view itself is excluded
            second = first.flatten() + 1  # 32 more bytes
            del first
    return (live.peak, live.current, second.numel()) == (64, 32, 8)


LIVE_BYTES = ProbedFeature(
    name="memory of activations",
    tested_with="torch 2.13.0",
    benefit="memory estimates include activations: tune validate --memory lora_finetune --config smollm2_135m_lora",
    fallback="estimates count only weights, gradients and optimizer state",
    probe=_counts_live_tensors,
)
