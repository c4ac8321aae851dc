"""One layer of a decoder."""

from collections.abc import Callable

from torch import Tensor, nn

from torchtune.modules._architecture import Architecture
from torchtune.modules._attention import Attention, AttentionContext
from torchtune.modules._feed_forward import FeedForward
from torchtune.modules._layer_norm import LayerNorm, norm_of
from torchtune.modules._rms_norm import RMSNorm


class DecoderLayer(nn.Module):
    """Attention, then a feed-forward, each added to the residual stream, with norms before or behind them, or both.

    Its parts carry the names of Hugging Face's checkpoints, so a weight has one name everywhere.

    Args:
        architecture: The decoder's.
        index: The layer's place in it, counted from 0.
    """

    input_layernorm: RMSNorm | LayerNorm
    post_attention_layernorm: RMSNorm | LayerNorm
    pre_feedforward_layernorm: RMSNorm | LayerNorm
    post_feedforward_layernorm: RMSNorm | LayerNorm
    run: Callable[..., Tensor] | None = None
    """What computes the layer in place of `compute`, with its arguments: a compiled or checkpointed version of it."""

    def __init__(self, architecture: Architecture, index: int = 0) -> None:
        super().__init__()
        a = architecture
        self.norms = a.norms
        self.self_attn = Attention(a, a.window if a.slides(index) else None)
        self.mlp = FeedForward(a)
        names = {
            "pre": ("input_layernorm", "post_attention_layernorm"),
            "post": ("post_attention_layernorm", "post_feedforward_layernorm"),
            "both": (
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ),
        }
        for name in names[a.norms]:
            self.add_module(name, norm_of(a))

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Map x `[b, s, d]` to `[b, s, d]`."""
        run = self.run or self.compute
        return run(x, context)

    def compute(self, x: Tensor, context: AttentionContext) -> Tensor:
        """Compute what `forward` returns."""
        y: Tensor
        if self.norms == "pre":
            x = x + self.self_attn(self.input_layernorm(x), context)
            y = x + self.mlp(self.post_attention_layernorm(x))
        elif self.norms == "post":
            x = x + self.post_attention_layernorm(self.self_attn(x, context))
            y = x + self.post_feedforward_layernorm(self.mlp(x))
        else:
            x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), context))
            y = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return y
