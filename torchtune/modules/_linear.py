"""Linear layers and embedding tables as models of this package draw them."""

from torch import Tensor, nn


def draw_weight(weight: Tensor) -> None:
    """Draw a weight from a normal distribution of standard deviation 0.02, in place.

    That is `initializer_range` of Hugging Face's LlamaConfig. On the meta device there is nothing to
    draw, and trying to costs 2 s of imports (torch 2.13).
    """
    if not weight.is_meta:
        nn.init.normal_(weight, std=0.02)


class Linear(nn.Linear):
    """An `nn.Linear` without a bias and with its weight drawn by `draw_weight`.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        device: Where the weight is made; None is torch's current default.
    """

    def __init__(self, in_features: int, out_features: int, device: str | None = None) -> None:
        super().__init__(in_features, out_features, bias=False, device=device)

    def reset_parameters(self) -> None:
        """Draw the weight."""
        draw_weight(self.weight)


class Embedding(nn.Embedding):
    """An `nn.Embedding` with its table drawn by `draw_weight`."""

    def reset_parameters(self) -> None:
        """Draw the table."""
        draw_weight(self.weight)
