"""Low-rank adaptation: two trained low-rank matrices for each frozen linear layer or embedding table."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._adapter import Adapter
from torchtune.modules._initialize import initialize
from torchtune.modules._lean import lora_linear

if TYPE_CHECKING:
    from torchtune.modules._linear import Embedding, Linear


class _LowRank(Adapter):
    """Base of low-rank adapters, with the parameters `lora_a`, A `[r, in]`, and `lora_b`, B `[out, r]`."""

    def create_parameters(self, in_features: int, out_features: int, like: Tensor) -> None:
        """Create A `[r, in]` and B `[out, r]`."""
        self.lora_a = nn.Parameter(like.new_empty(self.rank, in_features))
        self.lora_b = nn.Parameter(like.new_empty(out_features, self.rank))

    @torch.no_grad()
    def merge(self, weight: Tensor) -> Tensor:
        """Compute `W + s B A`, `[out, in]`, in float32 or wider."""
        dtype = torch.promote_types(torch.promote_types(weight.dtype, self.lora_a.dtype), torch.float32)
        return weight.to(dtype) + self.scale * (self.lora_b.to(dtype) @ self.lora_a.to(dtype))


class LoRA(_LowRank):
    """A low-rank update: `x W^T + b + s drop(x) A^T B^T`, with `s = alpha / rank` (arXiv 2106.09685, section 4.1).

    A is initially random and B is zero, so that the layer is initially unchanged.
    """

    peft_tensors: ClassVar[Mapping[str, str]] = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}

    def reset(self, weight: Tensor) -> None:  # noqa: ARG002 -- other kinds need the weight
        """Initialize A in the same way as the weight of an `nn.Linear`, and set B to zero."""
        if self.lora_a.is_meta:
            return
        initialize(self.lora_a, nn.init.kaiming_uniform_, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def forward(self, x: Tensor, layer: "Linear") -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        weight = layer.weight_matrix()
        uses_dropout = self.training and self.dropout.p > 0
        if not uses_dropout and layer.uses_lean_implementation(x, weight, self.lora_a):
            return lora_linear(
                x, weight, layer.bias, self.lora_a, self.lora_b, self.scale, layer.recomputation(weight)
            )
        y = layer.apply_weight(x, weight, layer.bias)
        inner = F.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a)  # [..., r]
        if inner.dtype != y.dtype:
            return y + (F.linear(inner, self.lora_b) * self.scale).to(y.dtype)
        # One product adds to y. Separate operations would read and write tensors of y's size twice more.
        flat = y.reshape(-1, y.shape[-1])
        return torch.addmm(flat, inner.reshape(-1, self.rank), self.lora_b.T, alpha=self.scale).view(y.shape)

    def low_rank_update(self, x: Tensor) -> Tensor:
        """Compute `s drop(x) A^T B^T`, `[..., out]`, from x `[..., in]`, in the adapter's dtype."""
        inner = F.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a)  # [..., r]
        return F.linear(inner, self.lora_b) * self.scale

    def head_factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `s drop(x) A^T`, `[..., r]`, and B, `[v, r]`."""
        return F.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a) * self.scale, self.lora_b


class EmbeddingLoRA(_LowRank):
    """A low-rank update of an embedding table E `[v, d]`, which becomes `E + s A^T B^T`.

    As in PEFT's `LoraLayer`, A `[r, v]` is initially zero, so that the table is unchanged, and B `[d, r]` is standard
    normal. A tied output head is adapted together with the table; dropout applies only to the head's inputs, because
    token ids cannot be dropped.
    """

    peft_tensors: ClassVar[Mapping[str, str]] = {"lora_a": "lora_embedding_A", "lora_b": "lora_embedding_B"}

    def reset(self, weight: Tensor) -> None:  # noqa: ARG002 -- as in `LoRA`
        """Set A to zero, and B to standard normal values."""
        if self.lora_a.is_meta:
            return
        nn.init.zeros_(self.lora_a)
        initialize(self.lora_b, nn.init.normal_)

    def forward(self, x: Tensor, layer: "Embedding") -> Tensor:
        """Look up the embeddings `[b, s, d]` of tokens x `[b, s]`."""
        rows = F.embedding(x, layer.weight_matrix())
        inner = F.embedding(x, self.lora_a.T)  # [b, s, r]
        return rows + (F.linear(inner, self.lora_b) * self.scale).to(rows.dtype)

    def head_factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `s drop(x) B`, `[..., r]`, and A^T, `[v, r]`."""
        return F.linear(self.dropout(x.to(self.lora_b.dtype)), self.lora_b.T) * self.scale, self.lora_a.T

    def merge(self, weight: Tensor) -> Tensor:
        """Compute `E + s A^T B^T`, `[v, d]`, in float32 or wider."""
        return super().merge(weight.T).T
