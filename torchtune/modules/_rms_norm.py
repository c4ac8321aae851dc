"""Root mean square norm."""

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from torchtune.modules._lean import LeanLayer, rms_norm
from torchtune.modules._parts import NormSpec


@frozen(kw_only=True)
class RMSNormSpec(NormSpec):
    """RMS norms."""

    norm_offset: float = 0.0
    """Offset added to the weight of every norm; 1 if checkpoints store the weight minus one."""

    def build(self, dim: int) -> "RMSNorm":
        """Build a normalization layer for vectors of width `dim`."""
        return RMSNorm(dim, self.norm_eps, self.norm_offset)


class RMSNorm(LeanLayer, nn.Module):
    """Scales vectors to a root mean square of one, and then by a learned weight (arXiv 1910.07467, equation 4).

    The norm is computed in float32 or wider, regardless of the input's dtype.

    Args:
        dim: Width of the vectors.
        eps: Constant added to the mean square.
        offset: Offset added to the weight; Gemma's checkpoints store the weight minus one.
    """

    def __init__(self, dim: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.weight = nn.Parameter(torch.full((dim,), 1.0 - offset))  # [d]

    def reset_parameters(self) -> None:
        """Set the effective weight to one."""
        nn.init.constant_(self.weight, 1.0 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x `[..., d]` along its last axis; the result has the dtype of x."""
        if self.is_lean:
            return rms_norm(x, self.weight, self.offset, self.eps)
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(dtype) + self.offset
        return F.rms_norm(x.to(dtype), self.weight.shape, weight, self.eps).to(x.dtype)
