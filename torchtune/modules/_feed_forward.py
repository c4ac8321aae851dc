"""The feed-forward of a decoder layer."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._lean import Lean, gated
from torchtune.modules._linear import Linear


class FeedForward(Lean, nn.Module):
    """Feed-forward, as a rule gated: SwiGLU, or GEGLU with the tanh approximation (arXiv 2002.05202, equation 6).

    Without a gate it is the activation between two layers.

    Args:
        embed_dim: Width of the residual stream.
        ffn_dim: Inner width.
        activation: What the gate passes through.
        gated: Whether there is a gate.
        bias: Whether its layers have biases.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        activation: Literal["silu", "gelu_tanh"] = "silu",
        *,
        gated: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gated = gated
        if gated:
            self.gate_proj = Linear(embed_dim, ffn_dim, bias=bias)
        self.up_proj = Linear(embed_dim, ffn_dim, bias=bias)
        self.down_proj = Linear(ffn_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[b, s, d]` to `[b, s, d]`, token by token."""
        # In both ways the gate comes first, so that dropout draws the same masks.
        if not self.gated:
            inner = self._activated(self.up_proj(x))  # [b, s, f]
        elif self.is_lean:
            inner = gated(self.gate_proj(x), self.up_proj(x), self.activation)
        else:
            inner = self._activated(self.gate_proj(x)) * self.up_proj(x)
        y: Tensor = self.down_proj(inner)
        return y

    def _activated(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.activation == "silu" else F.gelu(x, approximate="tanh")
