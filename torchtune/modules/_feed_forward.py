"""The feed-forward of a decoder layer."""

from torch import Tensor, nn

from torchtune.modules._architecture import Architecture
from torchtune.modules._lean import Lean, activated, gated
from torchtune.modules._linear import Linear


class FeedForward(Lean, nn.Module):
    """Feed-forward, as a rule gated: SwiGLU, or GEGLU with the tanh approximation (arXiv 2002.05202, equation 6).

    Without a gate it is the activation between two layers.

    Args:
        architecture: Its widths, what the gate passes through, whether there is one, and whether there are biases.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.activation = a.activation
        self.gated = a.gated
        if a.gated:
            self.gate_proj = Linear(a.embed_dim, a.ffn_dim, bias=a.mlp_bias)
        self.up_proj = Linear(a.embed_dim, a.ffn_dim, bias=a.mlp_bias)
        self.down_proj = Linear(a.ffn_dim, a.embed_dim, bias=a.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[b, s, d]` to `[b, s, d]`, token by token."""
        # In both ways the gate comes first, so that dropout draws the same masks.
        if not self.gated:
            inner = activated(self.up_proj(x), self.activation)  # [b, s, f]
        elif self.is_lean:
            inner = gated(self.gate_proj(x), self.up_proj(x), self.activation)
        else:
            inner = activated(self.gate_proj(x), self.activation) * self.up_proj(x)
        y: Tensor = self.down_proj(inner)
        return y
