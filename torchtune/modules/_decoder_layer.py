"""A decoder layer."""

from collections.abc import Callable
from typing import Any

from attrs import astuple
from torch import Tensor, nn

from torchtune.modules._architecture import Architecture
from torchtune.modules._context import PassContext
from torchtune.modules._parts import HasAggregates


class DecoderLayer(nn.Module):
    """Attention and a feed-forward, each added to the residual stream, with norms before them, after them, or both.

    The architecture's specs determine the attention, feed-forward and norms. Submodules are named as in Hugging Face
    checkpoints.

    Args:
        architecture: The decoder's architecture.
        index: Index of the layer, from 0.
    """

    run: Callable[..., Any] | None = None
    """Replacement for `compute` with the same arguments, such as its compiled or checkpointed version."""

    def __init__(self, architecture: Architecture, index: int = 0) -> None:
        super().__init__()
        a = architecture
        self.self_attn = a.attention.build(a, index)
        self.mlp = a.feed_forward.build(a, index)
        self.norm_names = a.norm.names
        for name in filter(None, astuple(self.norm_names)):
            self.add_module(name, a.norm.build(a.embed_dim))
        parts = [part for part in (self.self_attn, self.mlp) if isinstance(part, HasAggregates)]
        self.aggregate_names = tuple(name for part in parts for name in part.aggregate_names)

    def forward(self, x: Tensor, context: PassContext) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Map x `[b, s, d]` to `[b, s, d]`; if parts have aggregates, also return their sums by name."""
        run = self.run or self.compute
        result: Tensor | tuple[Tensor, dict[str, Tensor]] = run(x, context)
        return result

    def compute(self, x: Tensor, context: PassContext) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Compute the result of `forward`.

        Sums are returned rather than added to the caller's context, so that recomputation in the backward pass does not
        add to them again, and gradients flow through the sums of the first pass.
        """
        if not self.aggregate_names:
            return self._residual_stream(x, context)
        aggregates: dict[str, Tensor] = {}
        y = self._residual_stream(x, context.with_aggregates(aggregates))
        return y, aggregates

    def _residual_stream(self, x: Tensor, context: PassContext) -> Tensor:
        # A variable for the output of the attention would keep it alive while the feed-forward part allocates; on a
        # CPU, each layer would then leave a gap of that size in the heap.
        names = self.norm_names
        x = x + self._normed(
            self.self_attn(self._normed(x, names.before_attention), context), names.after_attention
        )
        return x + self._normed(
            self.mlp(self._normed(x, names.before_feed_forward), context), names.after_feed_forward
        )

    def _normed(self, x: Tensor, name: str | None) -> Tensor:
        normed: Tensor = x if name is None else getattr(self, name)(x)
        return normed
