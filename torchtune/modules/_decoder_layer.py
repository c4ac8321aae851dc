"""One layer of a decoder."""

from torch import Tensor, nn

from torchtune.modules._architecture import Architecture
from torchtune.modules._attention import Attention
from torchtune.modules._feed_forward import FeedForward
from torchtune.modules._kv_cache import LayerCache
from torchtune.modules._rms_norm import RMSNorm
from torchtune.modules._rotary import Rotation


class DecoderLayer(nn.Module):
    """Attention, then a feed-forward, each behind a norm and added to the residual stream.

    Its parts carry the names of Hugging Face's checkpoints, so a weight has one name everywhere.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.input_layernorm = RMSNorm(a.embed_dim, a.norm_eps)
        self.self_attn = Attention(a.embed_dim, a.num_heads, a.num_kv_heads, a.head_dim)
        self.post_attention_layernorm = RMSNorm(a.embed_dim, a.norm_eps)
        self.mlp = FeedForward(a.embed_dim, a.ffn_dim)

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Map x `[b, s, d]` to `[b, s, d]`; the other arguments are those of `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y
