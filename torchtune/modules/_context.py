"""Data that a forward pass shares with the parts of its layers."""

from attrs import define
from torch import Tensor

from torchtune.modules._attention_mask import AttentionMask
from torchtune.modules._kv_cache import LayerCache
from torchtune.modules._rotary import Rotation


@define(eq=False)
class PassContext:
    """Inputs of a layer's parts other than the residual stream, and the sums that these parts collect."""

    rotation: Rotation
    """Rotation angles of the tokens' positions."""
    mask: AttentionMask | None = None
    """The keys that queries attend to, and the attention kernel."""
    cache: LayerCache | None = None
    """Cache of earlier keys and values, to which new ones are added."""
    aggregates: dict[str, Tensor] | None = None
    """Collected sums by name; None: sums are discarded."""

    def add(self, name: str, value: Tensor) -> None:
        """Add to a sum that a part declares (`HasAggregates`) and that the loss uses."""
        if self.aggregates is not None:
            add_up(self.aggregates, {name: value})

    def with_aggregates(self, aggregates: dict[str, Tensor]) -> "PassContext":
        """Return a copy that collects sums in `aggregates`."""
        return PassContext(self.rotation, self.mask, self.cache, aggregates)


def add_up(totals: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    """Add sums to totals by name; the mapping is changed in place, but its tensors are not."""
    for name, value in sums.items():
        totals[name] = totals[name] + value if name in totals else value
