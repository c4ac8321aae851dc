"""The feed-forward of a decoder layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._linear import Linear


class FeedForward(nn.Module):
    """Gated feed-forward, SwiGLU (arXiv 2002.05202, equation 6).

    Args:
        embed_dim: Width of the residual stream.
        ffn_dim: Inner width.
    """

    def __init__(self, embed_dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_proj = Linear(embed_dim, ffn_dim)
        self.up_proj = Linear(embed_dim, ffn_dim)
        self.down_proj = Linear(ffn_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[b, s, d]` to `[b, s, d]`, token by token."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y
