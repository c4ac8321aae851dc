"""What a forward pass hands to the parts of its layers."""

from attrs import define
from torch import Tensor

from torchtune.modules._documents import Documents
from torchtune.modules._kv_cache import LayerCache
from torchtune.modules._rotary import Rotation


@define(eq=False)
class PassContext:
    """What a layer's parts look at besides the residual stream, and where they leave sums."""

    rotation: Rotation
    """The angles of the tokens' positions."""
    mask: Tensor | None = None
    """`[b or 1, 1, s, keys]`, True where a query sees a key. None: token i of x sees tokens 0 to i of x; where there is
    a single token, it sees every key of the cache."""
    cache: LayerCache | None = None
    """Where earlier keys and values are, and the new ones are put."""
    documents: Documents | None = None
    """Tokens see those of their own document alone; the mask is not looked at then."""
    aggregates: dict[str, Tensor] | None = None
    """Sums over what was computed, by name; None: they are not collected."""

    def add(self, name: str, value: Tensor) -> None:
        """Add to a sum, which a part that declares it (`HasAggregates`) wants to have in the loss."""
        if self.aggregates is not None:
            add_up(self.aggregates, {name: value})

    def collecting(self, aggregates: dict[str, Tensor]) -> "PassContext":
        """Return a copy that adds sums to a mapping."""
        return PassContext(self.rotation, self.mask, self.cache, self.documents, aggregates)


def add_up(totals: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    """Add sums to totals by name, in place of the mapping, not of its tensors."""
    for name, value in sums.items():
        totals[name] = totals[name] + value if name in totals else value
