"""Low-rank adaptation: train two thin matrices beside each frozen linear layer."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchtune.modules._linear import Linear, draw_weight

ALL_LINEAR = "all-linear"
"""As a target of `add_lora`: every linear layer but the output head."""

_HEAD = "lm_head"


class LoRALinear(nn.Module):
    """A linear layer plus a low-rank change: `x W^T + b + alpha / rank * drop(x) A^T B^T`.

    From arXiv 2106.09685, section 4.1. `weight` and `bias` keep their names and are frozen; `lora_a` and
    `lora_b` start as a random matrix and zeros, so at first nothing changes. A and B are float32 at
    least, also beside a bfloat16 weight, whose 8 bits would swallow small steps; the result has the
    dtype that the plain layer's would have.

    Args:
        linear: The layer to adapt; its parameters are taken over, not copied.
        rank: Rows of A.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the change's inputs that are zeroed while training, from 0 to below 1.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.rank, self.alpha = rank, alpha
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.requires_grad = False
        if self.bias is not None:
            self.bias.requires_grad = False
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        empty = torch.empty((), dtype=dtype, device=linear.weight.device)
        self.lora_a = nn.Parameter(empty.new_empty(rank, linear.in_features))  # [r, in]
        self.lora_b = nn.Parameter(empty.new_empty(linear.out_features, rank))  # [out, r]
        self.dropout = nn.Dropout(dropout)
        self.init_lora()

    def reset_parameters(self) -> None:
        """Draw the adapted weight and the adapter."""
        draw_weight(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.init_lora()

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.alpha / self.rank

    def init_lora(self) -> None:
        """Draw A as `nn.Linear` draws its weight, and set B to zero."""
        if self.lora_a.is_meta:
            return
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def forward(self, x: Tensor) -> Tensor:
        """Map x `[..., in]` to `[..., out]`."""
        y = F.linear(x, self.weight, self.bias)
        change = F.linear(self.dropout(x.to(self.lora_a.dtype)), self.lora_a)  # [..., r]
        return y + (F.linear(change, self.lora_b) * self.scale).to(y.dtype)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Compute the weight `[out, in]` of the one linear layer that does the same, in weight's dtype."""
        return low_rank_sum(self.weight, self.lora_a, self.lora_b, self.scale).to(self.weight.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, alpha={self.alpha}"


def low_rank_sum(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """Compute `W + scale B A`, `[out, in]`, in the adapter's dtype.

    Args:
        weight: W `[out, in]`.
        lora_a: A `[r, in]`, float32 at least.
        lora_b: B `[out, r]`, of A's dtype.
        scale: What the change is multiplied by.
    """
    return weight.to(lora_a.dtype) + scale * (lora_b @ lora_a)


def add_lora(
    model: nn.Module, targets: str | Sequence[str], rank: int, alpha: float, dropout: float = 0.0
) -> None:
    """Adapt linear layers of a model in place, and freeze everything but the adapters.

    Args:
        model: Any model with `nn.Linear` layers and no adapters yet.
        targets: Names of layers: the last part ("q_proj") or more of the end ("self_attn.q_proj",
            "layers.3.self_attn.q_proj"). "all-linear" is every linear layer but the output head.
        rank: Rank of the change, above 0.
        alpha: The change is scaled by `alpha / rank`.
        dropout: Share of the adapters' inputs that are zeroed while training, from 0 to below 1.

    Raises:
        ValueError: a target matches nothing or is the output head, the model has adapters already, or a
            number is out of its range.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA needs rank > 0 and 0 <= dropout < 1, got rank {rank}, dropout {dropout}")
    if next(lora_layers(model), None) is not None:
        raise ValueError("the model has LoRA adapters already; merge them first (merge_lora)")
    names = _find_targets(model, [targets] if isinstance(targets, str) else targets)
    model.requires_grad_(requires_grad=False)
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(name, LoRALinear(linear, rank, alpha, dropout))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Go through the adapted layers of a model with their names."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear))


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Collect the adapters' parameters (not copies) by their names in the model's state dict."""
    state = {}
    for name, layer in lora_layers(model):
        state[f"{name}.lora_a"] = layer.lora_a.detach()
        state[f"{name}.lora_b"] = layer.lora_b.detach()
    return state


def merge_lora(model: nn.Module) -> None:
    """Add every adapter to the weight beside it and put plain linear layers back, in place.

    The sum is rounded to the weight's dtype: exact in float32 up to rounding, and to 8 bits in
    bfloat16. The weights stay frozen.
    """
    for name, layer in list(lora_layers(model)):
        linear = Linear(layer.in_features, layer.out_features, device="meta")
        linear.weight = nn.Parameter(layer.merged_weight(), requires_grad=False)
        linear.bias = layer.bias
        model.set_submodule(name, linear)


def _find_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Turn targets into full names of linear layers, in the model's order."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    body = [name for name in linears if name.rpartition(".")[2] != _HEAD]
    found = {target: [name for name in linears if _matches(name, target)] for target in targets}
    if ALL_LINEAR in found:
        found[ALL_LINEAR] = body
    missing = [target for target in targets if not found[target]]
    if missing or not found:
        leaves = sorted({name.rpartition(".")[2] for name in body})
        raise ValueError(
            f"no linear layer of the model is called {' or '.join(missing) or '(nothing was asked for)'};"
            f" it has {', '.join(leaves)}; {ALL_LINEAR!r} means all of them"
        )
    chosen = {name for names in found.values() for name in names}
    if not chosen <= set(body):
        raise ValueError(f"{_HEAD} cannot have an adapter: losses read the output head's weight directly")
    return [name for name in body if name in chosen]


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
