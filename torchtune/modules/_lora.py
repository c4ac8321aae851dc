"""Low-rank adaptation: train two thin matrices beside each frozen linear layer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._draw import draw
from torchtune.modules._lean import Lean, adapted
from torchtune.modules._linear import draw_weight


class LoRALinear(Lean, nn.Module):
    """A linear layer plus a low-rank change: `x W^T + b + s drop(x) A^T B^T`, with `s = alpha / rank`.

    From arXiv 2106.09685, section 4.1. `weight` and `bias` keep their names and are frozen; `lora_a` and
    `lora_b` start as a random matrix and zeros, so at first nothing changes. A and B are float32 at
    least, also beside a bfloat16 weight, whose 8 bits would swallow small steps; the result has the
    dtype that the plain layer's would have.

    Args:
        linear: The layer to adapt; its parameters are taken over, not copied.
        rank: Rows of A.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the change's inputs that are zeroed while training, from 0 to below 1.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead, with which the change and its gradients stay of
            one size whatever the rank (arXiv 2312.03732).
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        *,
        rank_stabilized: bool = False,
    ) -> None:
        super().__init__()
        linear.requires_grad_(requires_grad=False)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.rank = rank
        self.alpha = alpha
        self.rank_stabilized = rank_stabilized
        self.weight = linear.weight
        self.bias = linear.bias
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        self._make_adapter(torch.empty((), dtype=dtype, device=linear.weight.device))
        self.dropout = nn.Dropout(dropout)
        self.init_lora()

    def _make_adapter(self, like: Tensor) -> None:
        """Make the adapter's parameters, of the dtype and on the device of a tensor."""
        self.lora_a = nn.Parameter(like.new_empty(self.rank, self.in_features))  # [r, in]
        self.lora_b = nn.Parameter(like.new_empty(self.out_features, self.rank))  # [out, r]

    def reset_parameters(self) -> None:
        """Draw the adapted weight and the adapter."""
        draw_weight(self.weight, self.bias)
        self.init_lora()

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return lora_scale(self.alpha, self.rank, rank_stabilized=self.rank_stabilized)

    def adapter(self) -> dict[str, nn.Parameter]:
        """Return the adapter's parameters by their names in this layer, all of which begin with `lora_`."""
        parameters = self.named_parameters(recurse=False)
        return {name: parameter for name, parameter in parameters if name.startswith("lora_")}

    def init_lora(self) -> None:
        """Draw A as `nn.Linear` draws its weight, and set B to zero; the adapted weight must be there before."""
        if self.lora_a.is_meta:
            return
        draw(self.lora_a, nn.init.kaiming_uniform_, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        drops = self.training and self.dropout.p > 0
        if not drops and self.uses_lean(x, self.weight, self.lora_a):
            return adapted(x, self.weight, self.bias, self.lora_a, self.lora_b, self.scale)
        y = F.linear(x, self.weight, self.bias)
        return y + self.change(x).to(y.dtype)

    def change(self, x: Tensor) -> Tensor:
        """Compute `s drop(x) A^T B^T`, `[..., out]`, of x `[..., in]`, in the adapter's dtype."""
        inner = F.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a)  # [..., r]
        return F.linear(inner, self.lora_b) * self.scale

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Compute the weight `[out, in]` of the one linear layer that does the same, in weight's dtype."""
        wide = torch.promote_types(self.lora_a.dtype, torch.float32)
        tensors = {name: parameter.to(wide) for name, parameter in self.adapter().items()}
        return merge_weight(self.weight, scale=self.scale, **tensors).to(self.weight.dtype)

    def extra_repr(self) -> str:
        scaling = ", rank_stabilized" if self.rank_stabilized else ""
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, alpha={self.alpha}{scaling}"


def lora_scale(alpha: float, rank: int, *, rank_stabilized: bool) -> float:
    """Return what a change of a rank is multiplied by."""
    return alpha / (math.sqrt(rank) if rank_stabilized else rank)


def merge_weight(
    weight: Tensor,
    *,
    scale: float,
    lora_a: Tensor,
    lora_b: Tensor,
    lora_magnitude: Tensor | None = None,
) -> Tensor:
    """Compute the weight `[out, in]` that does what a weight and its adapter do, in the adapter's dtype.

    Args:
        weight: W `[out, in]`.
        scale: What the change is multiplied by, s.
        lora_a: A `[r, in]`, float32 at least.
        lora_b: B `[out, r]`, of A's dtype.
        lora_magnitude: The lengths `[out]` that rows of `W + s B A` are brought to; None: they are as long as they are.
    """
    total = weight.to(lora_a.dtype) + scale * (lora_b @ lora_a)
    if lora_magnitude is None:
        return total
    norms: Tensor = torch.linalg.vector_norm(total, dim=1)  # [out]
    return total * (lora_magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny))[:, None]
