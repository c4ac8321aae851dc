"""Run transformers models entirely in float64, without the library's casts to float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Float32AsFloat64(TorchFunctionMode):
    """Replace casts to float32 by casts to float64.

    transformers computes norms, rotary angles and softmax in float32, regardless of the model's dtype.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # The protocol of torch.overrides is untyped.
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextmanager
def float64_transformers() -> Iterator[None]:
    """Build and run transformers models in float64, including constants and buffers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float32AsFloat64():
            yield
    finally:
        torch.set_default_dtype(before)
