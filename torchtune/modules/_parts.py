"""What the parts of a decoder layer are, whatever their kind: their specs, and what they may tell about themselves.

A spec is a value: the sizes of a part, and `build`, which returns its module. `Architecture` holds one of each.
Field names are unique among the specs of an architecture, so that `Architecture.of` and `flat` can list all numbers
side by side, as a config.json does.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from attrs import field, frozen
from attrs.validators import gt
from torch import nn

from torchtune.modules._rotary import RotaryEmbedding

if TYPE_CHECKING:
    from torchtune.modules._architecture import Architecture


class AttentionSpec(ABC):
    """The spec of a part that mixes tokens: `part(x, context)` maps `[b, s, d]` to `[b, s, d]`."""

    __slots__ = ()

    @property
    @abstractmethod
    def rotary_dim(self) -> int:
        """Channels of a head that positions turn, even."""

    @property
    @abstractmethod
    def pair_width(self) -> int:
        """Channels that are multiplied for each pair of a query and a key, all heads together."""

    @abstractmethod
    def window_of(self, index: int) -> int | None:
        """Return how many keys a query of a layer, counted from 0, sees, its own included; None: all to its left."""

    @abstractmethod
    def build(self, architecture: "Architecture", index: int) -> nn.Module:
        """Build the part of a layer, counted from 0."""


class FeedForwardSpec(ABC):
    """The spec of a part that maps each token by itself: `part(x, context)` maps `[b, s, d]` to `[b, s, d]`."""

    __slots__ = ()

    @abstractmethod
    def build(self, architecture: "Architecture", index: int) -> nn.Module:
        """Build the part of a layer, counted from 0."""


@frozen(kw_only=True)
class NormNames:
    """Which norms a layer has: their names, None where there is none."""

    before_attention: str | None = None
    after_attention: str | None = None
    before_feed_forward: str | None = None
    after_feed_forward: str | None = None


_NORM_NAMES = {
    "pre": NormNames(before_attention="input_layernorm", before_feed_forward="post_attention_layernorm"),
    "post": NormNames(
        after_attention="post_attention_layernorm", after_feed_forward="post_feedforward_layernorm"
    ),
    "both": NormNames(
        before_attention="input_layernorm",
        after_attention="post_attention_layernorm",
        before_feed_forward="pre_feedforward_layernorm",
        after_feed_forward="post_feedforward_layernorm",
    ),
}
"""The names are those of Hugging Face's checkpoints."""


@frozen(kw_only=True)
class NormSpec(ABC):
    """The spec of all norms of a decoder."""

    norm_eps: float = field(validator=gt(0))
    """Added to the mean square inside every norm."""
    norm_layout: Literal["pre", "post", "both"] = "pre"
    """Where a layer's norms are: before attention and feed-forward, after them, or both."""

    @property
    def names(self) -> NormNames:
        """The norms of a layer."""
        return _NORM_NAMES[self.norm_layout]

    @abstractmethod
    def build(self, dim: int) -> nn.Module:
        """Build a norm of vectors of some width."""


class PositionsSpec(ABC):
    """The spec of how a decoder knows positions."""

    __slots__ = ()

    @abstractmethod
    def rotations(self, rotary_dim: int) -> tuple[RotaryEmbedding, RotaryEmbedding]:
        """Return what turns queries and keys: of layers that see everything, and of those with a sliding window."""

    @abstractmethod
    def embedding(self, architecture: "Architecture") -> nn.Module | None:
        """Build a table that is added to the tokens' embeddings; None: there is none."""


@runtime_checkable
class HasAggregates(Protocol):
    """A part that adds sums to the pass's context (`PassContext.add`), such as a router's balance."""

    aggregate_names: tuple[str, ...]
    """The names of the sums."""


@runtime_checkable
class PartlyActive(Protocol):
    """A module of whose parameters each token is multiplied by a share alone, such as a list of experts."""

    active_share: float
    """The share, above 0 and at most 1."""


@runtime_checkable
class HasReset(Protocol):
    """A module that can draw its parameters anew, those of its submodules not included."""

    def reset_parameters(self) -> None:
        """Draw them."""


def active_shares(model: nn.Module) -> dict[str, float]:
    """Return the share of tokens that each parameter is multiplied by, by name: 1 unless a part says less."""
    shares = {name: 1.0 for name, _ in model.named_parameters()}
    for prefix, module in model.named_modules():
        parameters = module.named_parameters(prefix)
        if isinstance(module, PartlyActive):
            for name, _ in parameters:
                if name in shares:  # one that is shared counts under its first name
                    shares[name] *= module.active_share
    return shares
