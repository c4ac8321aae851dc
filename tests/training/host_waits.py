"""Counts, on a CPU, what would make the host wait for a GPU."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONIZING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique_dim",
    "_unique2",
}
"""Operations that make the host wait for the device."""


class SyncCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts operations that would make the host wait for a GPU."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.n_constants = 0
        """Number of tensors made from Python values: on a GPU, copies from memory that is not pinned, which wait."""
        self.names: set[str] = set()
        """Names of all operations."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(operation, "overloadpacket", operation).__name__
        self.names.add(name)
        self.n_constants += name == "lift_fresh"
        indexes_by_mask = name.startswith("index") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool
            for part in args
            if isinstance(part, (list, tuple))
            for i in part
        )
        sums_repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in SYNCHRONIZING or indexes_by_mask or sums_repeats:
            self.counts[name] += 1
        return operation(*args, **kwargs)


class CopyCounter(TorchFunctionMode):
    """Counts copies of tensors to the host, which are no operations on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}:
            self.counts[function.__name__] += 1
        return function(*args, **(kwargs or {}))
