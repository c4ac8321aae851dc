"""The feed-forward of a decoder layer."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._linear import Linear


class FeedForward(nn.Module):
    """Gated feed-forward: SwiGLU, or GEGLU with the tanh approximation (arXiv 2002.05202, equation 6).

    Args:
        embed_dim: Width of the residual stream.
        ffn_dim: Inner width.
        activation: What the gate passes through.
    """

    def __init__(
        self, embed_dim: int, ffn_dim: int, activation: Literal["silu", "gelu_tanh"] = "silu"
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = Linear(embed_dim, ffn_dim)
        self.up_proj = Linear(embed_dim, ffn_dim)
        self.down_proj = Linear(ffn_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[b, s, d]` to `[b, s, d]`, token by token."""
        gate = self.gate_proj(x)  # [b, s, f]
        gate = F.silu(gate) if self.activation == "silu" else F.gelu(gate, approximate="tanh")
        y: Tensor = self.down_proj(gate * self.up_proj(x))
        return y
