"""Interfaces of the parts of a decoder layer: specs, and optional protocols.

A spec contains the sizes of a part, and its method `build` returns the module. `Architecture` contains one spec of
each kind. Field names are unique among the specs of an architecture, so that `Architecture.from_values` and `flat` can
use one flat mapping of all values, like a config.json.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from attrs import field, frozen
from attrs.validators import gt
from torch import nn

from torchtune.modules._attention_kernels import Kernel, Masking
from torchtune.modules._hardware import Hardware
from torchtune.modules._rotary import RotaryEmbedding

if TYPE_CHECKING:
    from torchtune.modules._architecture import Architecture


class AttentionSpec(ABC):
    """Spec of an attention part: `part(x, context)` maps `[b, s, d]` to `[b, s, d]` and mixes tokens."""

    __slots__ = ()

    @property
    @abstractmethod
    def rotary_dim(self) -> int:
        """Number of channels per head that are rotated by positions; it must be even."""

    @property
    @abstractmethod
    def query_width(self) -> int:
        """Total number of channels of all query heads; also the number of multiplications per query-key pair."""

    @abstractmethod
    def window_of(self, index: int) -> int | None:
        """Return the sliding window (number of keys) of layer `index`, counted from 0; None: full causal attention."""

    def kernel(self, hardware: Hardware, dtype: torch.dtype, masking: Masking) -> Kernel:  # noqa: ARG002 -- arguments of the interface
        """Choose the kernel, which determines the form of `PassContext.mask`.

        The default is "scores", whose mask has an element for each pair of a query and a key.

        Args:
            hardware: The device.
            dtype: Dtype of queries, keys and values.
            masking: The keys that queries attend to.
        """
        return "scores"

    @abstractmethod
    def build(self, architecture: "Architecture", index: int) -> nn.Module:
        """Build the part of layer `index`, counted from 0."""


class FeedForwardSpec(ABC):
    """Spec of a feed-forward part: `part(x, context)` maps `[b, s, d]` to `[b, s, d]`, token by token."""

    __slots__ = ()

    @abstractmethod
    def build(self, architecture: "Architecture", index: int) -> nn.Module:
        """Build the part of layer `index`, counted from 0."""


@frozen(kw_only=True)
class NormNames:
    """Module names of a layer's norms; None for a norm that the layer does not have."""

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
"""Names of norms in Hugging Face checkpoints, by layout."""


@frozen(kw_only=True)
class NormSpec(ABC):
    """Spec of all norms of a decoder."""

    norm_eps: float = field(validator=gt(0))
    """Constant added to the mean square (or variance) inside every norm."""
    norm_layout: Literal["pre", "post", "both"] = "pre"
    """Where a layer has norms: before attention and feed-forward, after them, or both."""

    @property
    def names(self) -> NormNames:
        """Module names of a layer's norms."""
        return _NORM_NAMES[self.norm_layout]

    @abstractmethod
    def build(self, dim: int) -> nn.Module:
        """Build a normalization layer for vectors of width `dim`."""


class PositionsSpec(ABC):
    """Spec of a decoder's position encoding."""

    __slots__ = ()

    @abstractmethod
    def rotations(self, rotary_dim: int) -> tuple[RotaryEmbedding, RotaryEmbedding]:
        """Return the rotary embeddings of layers with full attention, and of layers with a sliding window."""

    @abstractmethod
    def embedding(self, architecture: "Architecture") -> nn.Module | None:
        """Build the position embedding that is added to the token embeddings, if any."""


@runtime_checkable
class HasAggregates(Protocol):
    """A part that adds sums to the pass context (`PassContext.add`), such as a router's load balance."""

    aggregate_names: tuple[str, ...]
    """Names of the sums."""


@runtime_checkable
class PartiallyActive(Protocol):
    """A module that uses only a fraction of its parameters for each token, such as a list of experts."""

    active_fraction: float
    """The fraction, above 0 and at most 1."""


@runtime_checkable
class HasReset(Protocol):
    """A module that can initialize its parameters, not including the parameters of its submodules."""

    def reset_parameters(self) -> None:
        """Initialize the parameters."""


def active_fractions(model: nn.Module) -> dict[str, float]:
    """Return the fraction of tokens that use each parameter, by name; 1 unless a part declares a smaller fraction."""
    fractions = {name: 1.0 for name, _ in model.named_parameters()}
    for prefix, module in model.named_modules():
        parameters = module.named_parameters(prefix)
        if isinstance(module, PartiallyActive):
            for name, _ in parameters:
                if name in fractions:  # a shared parameter is listed under its first name
                    fractions[name] *= module.active_fraction
    return fractions
