"""Root mean square norm."""

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from torchtune.modules._lean import Lean, normed
from torchtune.modules._parts import NormSpec


@frozen(kw_only=True)
class RMSNormSpec(NormSpec):
    """RMS norms."""

    norm_offset: float = 0.0
    """Added to the weight of every norm; 1 where checkpoints hold what it differs from one by."""

    def build(self, dim: int) -> "RMSNorm":
        """Build a norm of vectors of some width."""
        return RMSNorm(dim, self.norm_eps, self.norm_offset)


class RMSNorm(Lean, nn.Module):
    """Scale vectors to a root mean square of one, then by a learnt weight (arXiv 1910.07467, equation 4).

    Computed in float32 at least, whatever the input's dtype.

    Args:
        dim: Width of the vectors.
        eps: Added to the mean square.
        offset: Added to the weight; Gemma's checkpoints hold what the weight differs from one by.
    """

    def __init__(self, dim: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.weight = nn.Parameter(torch.full((dim,), 1.0 - offset))  # [d]

    def reset_parameters(self) -> None:
        """Set the weight to what leaves vectors as long as they are."""
        nn.init.constant_(self.weight, 1.0 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x `[..., d]` along its last axis, in its own dtype."""
        if self.is_lean:
            return normed(x, self.weight, self.offset, self.eps)
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(dtype) + self.offset
        return F.rms_norm(x.to(dtype), self.weight.shape, weight, self.eps).to(x.dtype)
