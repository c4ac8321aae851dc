"""Initialization of parameters, which may be sharded across ranks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchtune.modules._hardware import hardware_of
from torchtune.modules._sharded import copy_full, is_sharded


def initialize(tensor: Tensor, init: Callable[..., Tensor], **settings: Any) -> None:
    """Fill a tensor in place with random numbers, drawn for the full tensor on the CPU.

    The numbers depend only on torch's seed, not on the device or the number of ranks.

    Args:
        tensor: A parameter that is not on the meta device.
        init: A function of `torch.nn.init`.
        **settings: Additional arguments of `init`.
    """
    if is_sharded(tensor) or not hardware_of(tensor.device).is_cpu:
        copy_full(tensor, init(torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"), **settings))
    else:
        init(tensor, **settings)
