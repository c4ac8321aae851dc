"""Random inputs of checks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def random_inputs(shapes: Mapping[str, Sequence[int]], scale: float = 1.0) -> dict[str, Tensor]:
    """Draw normally distributed float64 tensors on the CPU, the same on every machine and in every call.

    Args:
        shapes: The shapes by name.
        scale: The standard deviation.
    """
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * scale
        for name, shape in shapes.items()
    }
