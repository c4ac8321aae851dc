"""Linear layers and embedding tables that can have adapters."""

from collections.abc import Callable
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._adapter import Adaptable, Adapter
from torchtune.modules._initialize import initialize
from torchtune.modules._lean import LeanLayer, linear, uses_autocast


def init_weight(weight: Tensor, bias: Tensor | None = None) -> None:
    """Initialize a weight in place from a normal distribution with standard deviation 0.02, and its bias with zeros.

    The standard deviation is the default `initializer_range` of Hugging Face's LlamaConfig. Meta tensors are skipped:
    initializing them would trigger imports that take 2 s (torch 2.13).
    """
    if not weight.is_meta:
        initialize(weight, nn.init.normal_, std=0.02)
        if bias is not None:
            nn.init.zeros_(bias)


class Linear(LeanLayer, Adaptable, nn.Linear):
    """An adaptable `nn.Linear`, initialized by `init_weight`, by default without a bias.

    A subclass that represents the weight differently, such as in quantized form, overrides `weight_matrix` and, if it
    can be initialized, `reset_parameters`; adapters, merging and PEFT folders use the result of `weight_matrix`. A
    matrix that is computed from parameters and buffers is recomputed in the backward pass instead of being saved.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether the layer has a bias, initialized with zeros.
        device: Device of the weight; None: torch's default device.
    """

    multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None
    """Computes `x W^T + b` from x, W and b in a different way from `F.linear`, such as in float8; None: `F.linear`."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, device: str | None = None
    ) -> None:
        # Set before calling nn.Linear's constructor, which initializes the weight.
        self.adapter: Adapter | None = None
        super().__init__(in_features, out_features, bias=bias, device=device)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Self:
        """Return a layer that shares the parameters of an `nn.Linear`."""
        layer = cls(linear.in_features, linear.out_features, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer

    def reset_parameters(self) -> None:
        """Initialize the weight, and then the adapter."""
        init_weight(self.weight, self.bias)
        self.reset_adapter()

    @property
    def adapter_sizes(self) -> tuple[int, int]:
        """Input and output widths of an adapter."""
        return self.in_features, self.out_features

    def weight_matrix(self) -> Tensor:
        """Return the weight `[out, in]`, not including the adapter's update, in the layer's compute dtype."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        if self.adapter is not None and self.adapter.is_enabled:
            y: Tensor = self.adapter(x, self)
            return y
        return self.apply_weight(x, self.weight_matrix(), self.bias)

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute `x W^T + b`, `[..., out]`, from x `[..., in]` and a result of `weight_matrix`."""
        if self.multiply is not None:
            return self.multiply(x, weight, bias)
        recompute = self.recomputation(weight)
        if recompute is not None or self.uses_lean_implementation(x, weight):
            return linear(x, weight, bias, recompute)
        return F.linear(x, weight, bias)

    def recomputation(self, weight: Tensor) -> Callable[[], Tensor] | None:
        """Return a function that recomputes a weight matrix in the backward pass; None if the matrix is a parameter.

        The result is also None in compiled code and under autocast, which choose the saved tensors and the dtype of
        products themselves.
        """
        is_parameter = weight is self._parameters.get("weight")
        if is_parameter or torch.compiler.is_compiling() or uses_autocast(weight.device):
            return None
        # In the backward pass, the layer may no longer contain the tensors that `functional_call` swapped in.
        tensors = dict(self.named_parameters(recurse=False)) | dict(self.named_buffers(recurse=False))
        swapped = {f"linear.{name}": tensor for name, tensor in tensors.items()}
        return partial(torch.func.functional_call, _WeightMatrix(self), swapped, ())


class _WeightMatrix(nn.Module):
    """A module that returns the weight matrix of a linear layer, for `functional_call`."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self) -> Tensor:
        return self.linear.weight_matrix()


class Embedding(Adaptable, nn.Embedding):
    """An adaptable `nn.Embedding`, initialized by `init_weight`.

    Args:
        num_embeddings: Number of rows of the table.
        embedding_dim: Width of an embedding.
        device: Device of the table; None: torch's default device.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, device: str | None = None) -> None:
        # Set before calling nn.Embedding's constructor, which initializes the table.
        self.adapter: Adapter | None = None
        super().__init__(num_embeddings, embedding_dim, device=device)

    def reset_parameters(self) -> None:
        """Initialize the table, and then the adapter."""
        init_weight(self.weight)
        self.reset_adapter()

    @property
    def adapter_sizes(self) -> tuple[int, int]:
        """Widths of an adapter's input (a token's one-hot vector) and of its output."""
        return self.num_embeddings, self.embedding_dim

    def weight_matrix(self) -> Tensor:
        """Return the table `[v, d]`, not including the adapter's update."""
        return self.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up the embeddings `[b, s, d]` of tokens `[b, s]`."""
        if self.adapter is not None and self.adapter.is_enabled:
            y: Tensor = self.adapter(tokens, self)
            return y
        return F.embedding(tokens, self.weight)
