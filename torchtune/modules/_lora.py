"""Low-rank adaptation: train two thin matrices for each frozen linear layer."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._adapter import Adapter
from torchtune.modules._draw import draw
from torchtune.modules._lean import adapted

if TYPE_CHECKING:
    from torchtune.modules._linear import Linear


class LoRA(Adapter):
    """A low-rank change: `x W^T + b + s drop(x) A^T B^T`, with `s = alpha / rank` (arXiv 2106.09685, section 4.1).

    `lora_a`, A, starts as a random matrix and `lora_b`, B, as zeros, so at first nothing changes.
    """

    peft_tensors: ClassVar[Mapping[str, str]] = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}

    def create_parameters(self, in_features: int, out_features: int, like: Tensor) -> None:
        """Create A `[r, in]` and B `[out, r]`."""
        self.lora_a = nn.Parameter(like.new_empty(self.rank, in_features))
        self.lora_b = nn.Parameter(like.new_empty(out_features, self.rank))

    def reset(self, weight: Tensor) -> None:  # noqa: ARG002 -- other kinds start from the weight
        """Draw A as `nn.Linear` draws its weight, and set B to zero."""
        if self.lora_a.is_meta:
            return
        draw(self.lora_a, nn.init.kaiming_uniform_, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def forward(self, x: Tensor, linear: "Linear") -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        weight = linear.weight_matrix()
        drops = self.training and self.dropout.p > 0
        if not drops and linear.uses_lean(x, weight, self.lora_a):
            return adapted(
                x, weight, linear.bias, self.lora_a, self.lora_b, self.scale, linear.recomputation(weight)
            )
        y = linear.product(x, weight, linear.bias)
        return y + self.change(x).to(y.dtype)

    def change(self, x: Tensor) -> Tensor:
        """Compute `s drop(x) A^T B^T`, `[..., out]`, of x `[..., in]`, in the adapter's dtype."""
        inner = F.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a)  # [..., r]
        return F.linear(inner, self.lora_b) * self.scale

    @torch.no_grad()
    def merge(self, weight: Tensor) -> Tensor:
        """Compute `W + s B A`, `[out, in]`, in float32 at least."""
        wide = torch.promote_types(torch.promote_types(weight.dtype, self.lora_a.dtype), torch.float32)
        return weight.to(wide) + self.scale * (self.lora_b.to(wide) @ self.lora_a.to(wide))
