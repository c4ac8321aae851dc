"""What a change of a frozen layer is, whatever its kind, and what a layer is that may have one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Adaptable(nn.Module):
    """A layer that holds an adapter, or None, as its `adapter`.

    A subclass sets `adapter` to None before it calls the constructor of `nn.Module`.
    """

    adapter: "Adapter | None"

    @property
    @abstractmethod
    def adapter_sizes(self) -> tuple[int, int]:
        """Widths of an adapter's input and output."""

    @abstractmethod
    def weight_matrix(self) -> Tensor:
        """Return the weight in the dtype that the layer computes in, without the adapter."""

    def reset_adapter(self) -> None:
        """Draw the adapter, if there is one; the weight must have its values."""
        if self.adapter is not None:
            self.adapter.reset(self.weight_matrix())


class Adapter(nn.Module, ABC):
    """A trained change of a frozen layer, which holds it as its `adapter`.

    A kind creates its parameters in `create_parameters`, draws them in `reset`, and computes the changed layer in
    `forward` and the changed weight in `merge`. It is listed in `ADAPTERS` (`_adapter_kinds.py`).

    Args:
        layer: The layer that it will change, which is frozen. Its sizes, dtype and device count, and its weight where
            a kind starts from that.
        rank: Rank of the change.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the change's inputs that are zeroed while training, from 0 to below 1.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead, with which the change and its gradients keep their
            size whatever the rank (arXiv 2312.03732).
    """

    peft_settings: ClassVar[Mapping[str, bool]] = {}
    """What PEFT's adapter_config.json says of this kind and of no other."""
    peft_tensors: ClassVar[Mapping[str, str]] = {}
    """Names of the parameters, each with PEFT's. `lora_a` is `[r, in]` and `lora_b` `[out, r]`; any other has a row
    for each output. Empty: PEFT has no such adapters, and they can be saved merged alone."""

    is_enabled = True
    """False: the layer computes what it does without an adapter (`adapters_disabled`)."""

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
        # Float32 at least, also for a bfloat16 weight, whose 8 bits would swallow small steps.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        empty = torch.empty((), dtype=dtype, device=weight.device)
        self.create_parameters(*layer.adapter_sizes, empty)
        self.reset(weight)

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    @abstractmethod
    def create_parameters(self, in_features: int, out_features: int, like: Tensor) -> None:
        """Create the parameters without values, with the dtype and on the device of a tensor."""

    @abstractmethod
    def reset(self, weight: Tensor) -> None:
        """Draw the parameters so that a layer with this weight `[out, in]` computes what it did; no-op on meta."""

    @abstractmethod
    def forward(self, x: Tensor, layer: Any) -> Tensor:  # each kind says which layers it changes
        """Map x `[..., in]` to `[..., out]` as the changed layer does, in the dtype of the layer's result."""

    @abstractmethod
    def merge(self, weight: Tensor) -> Tensor:
        """Compute the weight `[out, in]` of the one linear layer that does the same, in float32 at least."""

    def head_factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Factor the change of an output head, whose product with hidden states losses compute themselves.

        Args:
            x: Hidden states `[..., d]`.

        Returns:
            Inputs `[..., r]` and rows `[v, r]`, whose product is added to the logits.

        Raises:
            NotImplementedError: The kind does not adapt output heads; those that do are in `EMBEDDING_ADAPTERS`.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        scaling = ", rank_stabilized" if self.rank_stabilized else ""
        return f"rank={self.rank}, alpha={self.alpha}{scaling}"
