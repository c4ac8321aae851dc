"""Linear layers and embedding tables as models of this package draw them."""

from collections.abc import Callable
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._adapter import Adaptable, Adapter
from torchtune.modules._draw import draw
from torchtune.modules._lean import Lean, product


def draw_weight(weight: Tensor, bias: Tensor | None = None) -> None:
    """Draw a weight from a normal distribution of standard deviation 0.02, in place, and set its bias to zero.

    The former is `initializer_range` of Hugging Face's LlamaConfig. On the meta device there is nothing to
    draw, and trying to costs 2 s of imports (torch 2.13).
    """
    if not weight.is_meta:
        draw(weight, nn.init.normal_, std=0.02)
        if bias is not None:
            nn.init.zeros_(bias)


class Linear(Lean, Adaptable, nn.Linear):
    """An `nn.Linear` with its weight drawn by `draw_weight`, without a bias unless it is asked for; it may be adapted.

    A kind that holds its weight in another form, such as a quantised one, overrides `weight_matrix` and, if it can be
    drawn, `reset_parameters`; adapters, their merging and PEFT's folders work with what `weight_matrix` returns. A
    matrix that is computed, from parameters and buffers of the layer itself, is not kept for the backward pass, but
    computed again.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether there is one; it begins as zeros.
        device: Where the weight is created; None is torch's current default.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, device: str | None = None
    ) -> None:
        # Before nn.Linear's constructor, which draws the weight.
        self.adapter: Adapter | None = None
        super().__init__(in_features, out_features, bias=bias, device=device)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Self:
        """Return a layer with the parameters of another one, not copies."""
        layer = cls(linear.in_features, linear.out_features, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer

    def reset_parameters(self) -> None:
        """Draw the weight, and then the adapter."""
        draw_weight(self.weight, self.bias)
        self.reset_adapter()

    @property
    def adapter_sizes(self) -> tuple[int, int]:
        """Widths of an adapter's input and output."""
        return self.in_features, self.out_features

    def weight_matrix(self) -> Tensor:
        """Return the weight `[out, in]` in the dtype that the layer computes in, without the adapter."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        if self.adapter is not None and self.adapter.is_enabled:
            y: Tensor = self.adapter(x, self)
            return y
        return self.product(x, self.weight_matrix(), self.bias)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute `x W^T + b`, `[..., out]`, of x `[..., in]` and what `weight_matrix` returned."""
        recompute = self.recomputation(weight)
        if recompute is not None or self.uses_lean(x, weight):
            return product(x, weight, bias, recompute)
        return F.linear(x, weight, bias)

    def recomputation(self, weight: Tensor) -> Callable[[], Tensor] | None:
        """Return what computes a weight matrix again in the backward pass; None: it is a parameter, and is kept.

        It is also None where others decide what is kept or how products are computed: in compiled code, and under
        autocast.
        """
        is_parameter = weight is self._parameters.get("weight")
        if is_parameter or torch.compiler.is_compiling() or torch.is_autocast_enabled(weight.device.type):
            return None
        # In the backward pass, the layer may no longer hold what `functional_call` has swapped in.
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
    """An `nn.Embedding` with its table drawn by `draw_weight`; it may be adapted.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Width of a row.
        device: Where the table is created; None is torch's current default.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, device: str | None = None) -> None:
        # Before nn.Embedding's constructor, which draws the table.
        self.adapter: Adapter | None = None
        super().__init__(num_embeddings, embedding_dim, device=device)

    def reset_parameters(self) -> None:
        """Draw the table, and then the adapter."""
        draw_weight(self.weight)
        self.reset_adapter()

    @property
    def adapter_sizes(self) -> tuple[int, int]:
        """Widths of an adapter's input, a token's one-hot vector, and of its output."""
        return self.num_embeddings, self.embedding_dim

    def weight_matrix(self) -> Tensor:
        """Return the table `[v, d]`, without the adapter."""
        return self.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Look tokens `[b, s]` up: `[b, s, d]`."""
        if self.adapter is not None and self.adapter.is_enabled:
            y: Tensor = self.adapter(tokens, self)
            return y
        return F.embedding(tokens, self.weight)
