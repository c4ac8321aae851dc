"""Weight-decomposed low-rank adaptation: magnitude and direction of each weight row are trained separately."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from torchtune.modules._lora import LoRA

if TYPE_CHECKING:
    from torchtune.modules._linear import Linear


class DoRA(LoRA):
    """A layer whose weight is `m (W + s B A) / ||W + s B A||`, row by row.

    See arXiv 2402.09353, equation 5; the paper's columns are the rows of torch's weights. The magnitude m
    (`lora_magnitude`) is initialized with the norms of W's rows, so that the layer is initially unchanged. The backward
    pass treats the norm in the denominator as a constant (section 4.3). A row of zeros has no direction and stays zero.

    Dropout applies only to the inputs of the low-rank update; in PEFT, it also affects the product with W if m differs
    from the norm.

    The norm is computed in float32 or wider. If m is cast to bfloat16 for a training step, the norm is rounded to
    bfloat16 too: otherwise, the initial rows would differ from the original ones by up to 0.4%.
    """

    peft_settings: ClassVar[Mapping[str, bool]] = {"use_dora": True}
    peft_tensors: ClassVar[Mapping[str, str]] = {
        **LoRA.peft_tensors,
        "lora_magnitude": "lora_magnitude_vector",
    }

    def create_parameters(self, in_features: int, out_features: int, like: Tensor) -> None:
        """Create A `[r, in]`, B `[out, r]` and m `[out]`."""
        super().create_parameters(in_features, out_features, like)
        self.lora_magnitude = nn.Parameter(like.new_empty(out_features))

    @torch.no_grad()
    def reset(self, weight: Tensor) -> None:
        """Initialize A and B as `LoRA` does, and set m to the norms of the weight's rows."""
        super().reset(weight)
        if not self.lora_magnitude.is_meta:
            # Each rank stores the rows of a sharded weight that its elements of m need, so nothing is communicated.
            self.lora_magnitude.copy_(_squares(weight).sqrt())

    def forward(self, x: Tensor, layer: "Linear") -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        weight = layer.weight_matrix()
        y = layer.apply_weight(x, weight, None)
        total = (y + self.low_rank_update(x).to(y.dtype)) * self._factors(weight)
        if layer.bias is not None:
            total = total + layer.bias
        return total.to(y.dtype)

    @torch.no_grad()
    def merge(self, weight: Tensor) -> Tensor:
        """Compute `m (W + s B A) / ||W + s B A||`, `[out, in]`, in float32 or wider."""
        total = super().merge(weight)
        norms: Tensor = torch.linalg.vector_norm(total, dim=1)  # [out]
        factors = self.lora_magnitude.to(total.dtype) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        return total * factors[:, None]

    def _factors(self, weight: Tensor) -> Tensor:
        """Compute `m / ||W + s B A||`, `[out]`, without a gradient through the denominator."""
        norms = self.row_norms(weight)
        rounded = norms.to(self.lora_magnitude.dtype).to(norms.dtype)
        return self.lora_magnitude.to(norms.dtype) / rounded.clamp_min(torch.finfo(norms.dtype).tiny)

    @torch.no_grad()
    def row_norms(self, weight: Tensor) -> Tensor:
        """Compute `||W + s B A||`, `[out]`, of W `[out, in]`, in float32 or wider.

        The squared norms are the diagonal of `W W^T + 2 s W A^T B^T + s^2 B A A^T B^T`, whose factors are as thin as A
        and B. The product `B A` is not computed: it is as large as W, and activation checkpointing that saves matrix
        products would store it.
        """
        dtype = torch.promote_types(self.lora_a.dtype, torch.float32)
        a, b = self.lora_a.to(dtype), self.scale * self.lora_b.to(dtype)
        projected = weight.to(dtype) @ a.T  # [out, r]
        added = (b * (2 * projected + b @ (a @ a.T))).sum(dim=1)  # [out]
        return (_squares(weight) + added).clamp_min(0).sqrt()


def _squares(weight: Tensor) -> Tensor:
    """Compute the squared norms `[out]` of a weight's rows, in float32 or wider."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=dtype)
    return norms.square()
