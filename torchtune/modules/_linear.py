"""Linear layers and embedding tables as models of this package draw them."""

from torch import Tensor, nn

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


class Linear(Lean, nn.Linear):
    """An `nn.Linear` with its weight drawn by `draw_weight`, and without a bias unless it is asked for.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether there is one; it begins as zeros.
        device: Where the weight is made; None is torch's current default.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = False, device: str | None = None
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device)

    def reset_parameters(self) -> None:
        """Draw the weight."""
        draw_weight(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        return product(x, self.weight, self.bias) if self.uses_lean(x, self.weight) else super().forward(x)


class Embedding(nn.Embedding):
    """An `nn.Embedding` with its table drawn by `draw_weight`."""

    def reset_parameters(self) -> None:
        """Draw the table."""
        draw_weight(self.weight)
