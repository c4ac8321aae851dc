"""Weight-decomposed low-rank adaptation: the length of each row of a weight is trained apart from its direction."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._lora import LoRALinear


class DoRALinear(LoRALinear):
    """A linear layer whose weight is `m (W + s B A) / ||W + s B A||`, row by row.

    From arXiv 2402.09353, equation 5, whose columns are the rows of torch's weights. `lora_magnitude`, m, starts as
    the norms of W's rows, so at first nothing changes; the norm below it is a constant for the gradient
    (section 4.3). A row of zeros has no direction, and stays what it is.

    Dropout falls on the input of the change alone, as without m; PEFT drops inputs of W too, as far as m has moved
    from the norm.

    The norm is taken in float32 at least. Where a step computes in bfloat16, and m is cast to that, the norm is
    rounded as m is: otherwise rows would begin up to 0.4% away from where they were.

    Args:
        linear: As for `LoRALinear`, as are the others.
        rank: Rows of A.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the change's inputs that are zeroed while training, from 0 to below 1.
        rank_stabilized: Scale by `alpha / sqrt(rank)` instead.
    """

    def _make_adapter(self, like: Tensor) -> None:
        super()._make_adapter(like)
        self.lora_magnitude = nn.Parameter(like.new_empty(self.out_features))  # [out]

    @torch.no_grad()
    def init_lora(self) -> None:
        """Start A and B as `LoRALinear` does, and m as the norms of the weight's rows as they are held."""
        super().init_lora()
        if not self.lora_magnitude.is_meta:
            # A sharded weight has its rows where m has its elements, so that nothing is sent.
            self.lora_magnitude.copy_(_squares(self.weight).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        y = F.linear(x, self.weight)
        total = (y + self.change(x).to(y.dtype)) * self._factors()
        if self.bias is not None:
            total = total + self.bias
        return total.to(y.dtype)

    def _factors(self) -> Tensor:
        """Compute `m / ||W + s B A||`, `[out]`, whose denominator has no gradient."""
        norms = self.row_norms()
        rounded = norms.to(self.lora_magnitude.dtype).to(norms.dtype)
        return self.lora_magnitude.to(norms.dtype) / rounded.clamp_min(torch.finfo(norms.dtype).tiny)

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """Compute `||W + s B A||`, `[out]`, in float32 at least.

        The square is expanded to the diagonal of `W W^T + 2 s W A^T B^T + s^2 B A A^T B^T`, whose products are as thin
        as A and B: `B A` is as large as W, and would be kept where checkpointing keeps what matrix products gave.
        """
        wide = torch.promote_types(self.lora_a.dtype, torch.float32)
        a, b = self.lora_a.to(wide), self.scale * self.lora_b.to(wide)
        along = self.weight.to(wide) @ a.T  # [out, r]
        added = (b * (2 * along + b @ (a @ a.T))).sum(dim=1)  # [out]
        return (_squares(self.weight) + added).clamp_min(0).sqrt()


def _squares(weight: Tensor) -> Tensor:
    """Compute the squared norms `[out]` of a weight's rows in float32 at least."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=wide)
    return norms.square()
