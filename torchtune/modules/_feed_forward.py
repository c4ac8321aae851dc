"""The feed-forward of a decoder layer."""

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen
from attrs.validators import gt
from torch import Tensor, nn

from torchtune.modules._context import PassContext
from torchtune.modules._lean import LeanLayer, activate, gated_product
from torchtune.modules._linear import Linear
from torchtune.modules._parts import FeedForwardSpec

if TYPE_CHECKING:
    from torchtune.modules._architecture import Architecture


@frozen(kw_only=True)
class DenseSpec(FeedForwardSpec):
    """A dense feed-forward network: every token passes through the same layers."""

    ffn_dim: int = field(validator=gt(0))
    """Inner width of the feed-forward."""
    activation: Literal["silu", "gelu_tanh"] = "silu"
    """Activation of the gate (arXiv 2002.05202)."""
    gated: bool = True
    """Whether the feed-forward has a gate."""
    mlp_bias: bool = False
    """Whether the feed-forward's layers have biases."""

    def build(self, architecture: "Architecture", index: int) -> "FeedForward":  # noqa: ARG002 -- the same for all layers
        """Build the feed-forward of a layer."""
        return FeedForward(architecture.embed_dim, self)


class FeedForward(LeanLayer, nn.Module):
    """Feed-forward, by default gated: SwiGLU, or GEGLU with the tanh approximation (arXiv 2002.05202, equation 6).

    Without a gate, it consists of two linear layers with the activation in between.

    Args:
        embed_dim: Width of the residual stream, d.
        spec: Sizes and options.
    """

    def __init__(self, embed_dim: int, spec: DenseSpec) -> None:
        super().__init__()
        self.activation = spec.activation
        self.gated = spec.gated
        if spec.gated:
            self.gate_proj = Linear(embed_dim, spec.ffn_dim, bias=spec.mlp_bias)
        self.up_proj = Linear(embed_dim, spec.ffn_dim, bias=spec.mlp_bias)
        self.down_proj = Linear(spec.ffn_dim, embed_dim, bias=spec.mlp_bias)

    def forward(self, x: Tensor, context: PassContext | None = None) -> Tensor:  # noqa: ARG002 -- part of the interface
        """Map x `[b, s, d]` to `[b, s, d]`, token by token."""
        # The lean and the standard gated branch both compute the gate first, so that dropout draws the same masks.
        if not self.gated:
            inner = activate(self.up_proj(x), self.activation)  # [b, s, f]
        elif self.is_lean:
            inner = gated_product(self.gate_proj(x), self.up_proj(x), self.activation)
        else:
            inner = activate(self.gate_proj(x), self.activation) * self.up_proj(x)
        y: Tensor = self.down_proj(inner)
        return y
