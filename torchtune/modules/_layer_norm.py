"""Layer norm, and the choice of a decoder's norms."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._architecture import Architecture
from torchtune.modules._rms_norm import RMSNorm


class LayerNorm(nn.LayerNorm):
    """Layer norm with weight and bias (arXiv 1607.06450), computed in float32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x `[..., d]` along its last axis, in its own dtype."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def norm_of(architecture: Architecture, dim: int | None = None) -> RMSNorm | LayerNorm:
    """Build a norm of the kind that a decoder has.

    Args:
        architecture: The decoder's.
        dim: Width of the vectors; None: that of the residual stream.
    """
    a = architecture
    width = a.embed_dim if dim is None else dim
    return RMSNorm(width, a.norm_eps, a.norm_offset) if a.norm_kind == "rms" else LayerNorm(width, a.norm_eps)
