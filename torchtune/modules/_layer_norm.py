"""Layer norm."""

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from torchtune.modules._parts import NormSpec


@frozen(kw_only=True)
class LayerNormSpec(NormSpec):
    """Layer norms with a bias."""

    def build(self, dim: int) -> "LayerNorm":
        """Build a normalization layer for vectors of width `dim`."""
        return LayerNorm(dim, self.norm_eps)


class LayerNorm(nn.LayerNorm):
    """Layer norm with weight and bias (arXiv 1607.06450), computed in float32 or wider."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x `[..., d]` along its last axis; the result has the dtype of x."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps).to(x.dtype)
