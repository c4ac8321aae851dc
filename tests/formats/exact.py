"""Lifting transformers' own casts, so that its float64 models compute in float64 throughout."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Lifted(TorchFunctionMode):
    """Let `.float()` and `torch.float32` mean float64.

    transformers computes norms, rotary angles and softmax in float32 whatever the model's dtype.
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
def lifted() -> Iterator[None]:
    """Build and run models of transformers in float64 throughout, constants and buffers too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Lifted():
            yield
    finally:
        torch.set_default_dtype(before)
