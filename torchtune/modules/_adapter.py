"""Base classes of adapters, and of the layers that they adapt."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Adaptable(nn.Module):
    """A layer with an optional adapter, which is stored in the attribute `adapter`.

    A subclass sets `adapter` to None before it calls the constructor of `nn.Module`.
    """

    adapter: "Adapter | None"

    @property
    @abstractmethod
    def adapter_sizes(self) -> tuple[int, int]:
        """Input and output widths of an adapter."""

    @abstractmethod
    def weight_matrix(self) -> Tensor:
        """Return the weight, not including the adapter's update, in the layer's compute dtype."""

    def reset_adapter(self) -> None:
        """Initialize the adapter, if any; the layer's weight must already be loaded or initialized."""
        if self.adapter is not None:
            self.adapter.reset(self.weight_matrix())


class Adapter(nn.Module, ABC):
    """A trained update of a frozen layer, stored in the layer's attribute `adapter`.

    A subclass creates its parameters in `create_parameters`, initializes them in `reset`, and computes the adapted
    layer's output in `forward` and the merged weight in `merge`. It is listed in `ADAPTERS` (`_adapter_kinds.py`).

    Args:
        layer: The layer to adapt, which is frozen. It determines the adapter's sizes, dtype (at least float32) and
            device; some kinds initialize the adapter from the layer's weight.
        rank: Rank of the update.
        alpha: The update is scaled by `alpha / rank`.
        dropout: Dropout probability of the update's inputs, at least 0 and below 1.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead, which keeps the size of the update and its gradients
            independent of the rank (arXiv 2312.03732).
    """

    peft_settings: ClassVar[Mapping[str, bool]] = {}
    """Entries of PEFT's adapter_config.json that only this kind has."""
    peft_tensors: ClassVar[Mapping[str, str]] = {}
    """Maps parameter names to PEFT's. `lora_a` is `[r, in]` and `lora_b` `[out, r]`; any other parameter has one row
    per output. Empty if PEFT has no equivalent adapter; such an adapter can only be saved merged."""

    is_enabled = True
    """Whether the layer applies the adapter; False inside `adapters_disabled`."""

    def __init__(
        self,
        layer: Adaptable,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        *,
        rank_stabilized: bool = False,
    ) -> None:
        super().__init__()
        layer.requires_grad_(requires_grad=False)
        self.rank = rank
        self.alpha = alpha
        self.rank_stabilized = rank_stabilized
        self.dropout = nn.Dropout(dropout)
        weight = layer.weight_matrix()
        # At least float32: with the 8 significant bits of bfloat16, small updates would be rounded away.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        empty = torch.empty((), dtype=dtype, device=weight.device)
        self.create_parameters(*layer.adapter_sizes, empty)
        self.reset(weight)

    @property
    def scale(self) -> float:
        """The factor by which the update is multiplied."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    @abstractmethod
    def create_parameters(self, in_features: int, out_features: int, like: Tensor) -> None:
        """Create uninitialized parameters with the dtype and device of `like`."""

    @abstractmethod
    def reset(self, weight: Tensor) -> None:
        """Initialize the parameters, except meta tensors, so that a layer with `weight` `[out, in]` is unchanged."""

    @abstractmethod
    def forward(self, x: Tensor, layer: Any) -> Tensor:  # each kind declares the layers that it adapts
        """Map x `[..., in]` to the adapted layer's output `[..., out]`, in the dtype of the layer's output."""

    @abstractmethod
    def merge(self, weight: Tensor) -> Tensor:
        """Compute the merged weight `[out, in]`, in float32 or wider."""

    def head_factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two factors of an output head's update, which the loss uses to compute the logits.

        Args:
            x: Hidden states `[..., d]`.

        Returns:
            Inputs `[..., r]` and rows `[v, r]`; the product `inputs @ rows.T` is added to the logits.

        Raises:
            NotImplementedError: This kind does not adapt output heads; `EMBEDDING_ADAPTERS` lists the kinds that do.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        scaling = ", rank_stabilized" if self.rank_stabilized else ""
        return f"rank={self.rank}, alpha={self.alpha}{scaling}"
