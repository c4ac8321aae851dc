"""Layers in their standard and lean implementations, and adapters."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from torchtune.modules import (
    AdapterKind,
    DenseSpec,
    FeedForward,
    LeanLayer,
    Linear,
    RMSNorm,
    RotaryEmbedding,
    add_adapter,
    lean,
    rotate,
)
from torchtune.placement import DTYPES
from torchtune.selftest._check import Check, Difference, Function, compare
from torchtune.selftest._inputs import random_inputs

ROWS, WIDTH, INNER = 33, 64, 96
RANK, ALPHA = 8, 12.0
EPS = 1e-5


def layer_checks(precisions: Iterable[str]) -> Iterator[Check]:
    """Yield checks of norms, feed-forward layers and rotary embeddings."""
    cases: dict[str, tuple[Callable[[], nn.Module], Function]] = {
        "RMSNorm": (lambda: RMSNorm(WIDTH, EPS), partial(_rms_norm, offset=0.0)),
        "RMSNorm of Gemma": (lambda: RMSNorm(WIDTH, EPS, 1.0), partial(_rms_norm, offset=1.0)),
        "SwiGLU": (lambda: FeedForward(WIDTH, DenseSpec(ffn_dim=INNER)), partial(_gated, activation=_silu)),
        "GEGLU": (
            lambda: FeedForward(WIDTH, DenseSpec(ffn_dim=INNER, activation="gelu_tanh")),
            partial(_gated, activation=_gelu),
        ),
        "GELU without a gate": (
            lambda: FeedForward(WIDTH, DenseSpec(ffn_dim=INNER, activation="gelu_tanh", gated=False)),
            lambda x: _gelu(x["x"] @ x["up_proj.weight"].T) @ x["down_proj.weight"].T,
        ),
        "linear": (lambda: Linear(WIDTH, INNER), lambda x: x["x"] @ x["weight"].T),
        "rotary embedding": (_Rotary, _rotated),
    }
    for name, (build, plain) in cases.items():
        for precision in precisions:
            yield from _implementations("lean layers", name, build, plain, precision)


def adapter_checks(precisions: Iterable[str]) -> Iterator[Check]:
    """Yield checks of adapted linear layers."""
    for precision in precisions:
        yield from _implementations("adapters", "LoRA", partial(_adapted, "lora"), _lora, precision)
        yield from _implementations("adapters", "DoRA", partial(_adapted, "dora"), _dora, precision)


def _implementations(
    part: str, name: str, build: Callable[[], nn.Module], plain: Function, precision: str
) -> Iterator[Check]:
    """Yield a check of the standard implementation and one of the lean implementation."""
    for kind in ("standard", "lean"):
        differences = partial(_differences, build, plain, DTYPES[precision], is_lean=kind == "lean")
        yield Check(part, f"{name}, {kind}, {precision}", differences)


def _differences(
    build: Callable[[], nn.Module],
    plain: Function,
    dtype: torch.dtype,
    device: torch.device,
    *,
    is_lean: bool,
) -> list[Difference]:
    module = build().to(device)
    if is_lean:
        lean(module)
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    inputs = random_inputs(shapes, 0.2) | random_inputs({"x": (2, ROWS, WIDTH)})

    def function(x: Mapping[str, Tensor]) -> Tensor:
        parameters = {name: tensor for name, tensor in x.items() if name != "x"}
        y: Tensor = torch.func.functional_call(module, parameters, (x["x"],))
        return y

    frozen = {"0.weight"} & shapes.keys()  # the weight of an adapted layer
    return compare(function, plain, inputs, dtype, device, frozen=frozen)


class _Rotary(LeanLayer, nn.Module):
    """Rotates the two halves of the last axis as one head."""

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)[None]
        rotation = RotaryEmbedding(WIDTH, 100.0)(positions, x.dtype)
        heads = x[:, None]
        rotated = rotate(heads, rotation.cos, rotation.sin) if self.is_lean else rotation(heads)
        return rotated[:, 0].to(x.dtype)


def _rotated(x: Mapping[str, Tensor]) -> Tensor:
    """Multiply pairs of channels by complex numbers (arXiv 2104.09864, equation 34)."""
    half = WIDTH // 2
    dtype = torch.promote_types(x["x"].dtype, torch.float32)
    angles = torch.arange(ROWS)[:, None].to(dtype) / 100.0 ** (torch.arange(half).to(dtype) / half)
    cos, sin = angles.cos().to(x["x"].dtype), angles.sin().to(x["x"].dtype)
    a, b = x["x"][..., :half], x["x"][..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _rms_norm(x: Mapping[str, Tensor], *, offset: float) -> Tensor:
    """Divide by the root of the mean square (arXiv 1910.07467, equation 4)."""
    mean_square = (x["x"] ** 2).mean(-1, keepdim=True)
    return x["x"] / (mean_square + EPS).sqrt() * (x["weight"] + offset)


def _gated(x: Mapping[str, Tensor], *, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute a gated feed-forward layer (arXiv 2002.05202, equation 6)."""
    inner = activation(x["x"] @ x["gate_proj.weight"].T) * (x["x"] @ x["up_proj.weight"].T)
    return inner @ x["down_proj.weight"].T


def _silu(x: Tensor) -> Tensor:
    return x * (1 + (-x).exp()).reciprocal()


def _gelu(x: Tensor) -> Tensor:
    """Approximate GELU by tanh (arXiv 1606.08415, section 2)."""
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def _adapted(kind: AdapterKind) -> nn.Module:
    module = nn.Sequential(Linear(WIDTH, INNER))
    add_adapter(module, "0", kind, RANK, ALPHA)
    return module


def _lora(x: Mapping[str, Tensor]) -> Tensor:
    """Add the low-rank update (arXiv 2106.09685, section 4.1)."""
    update = x["x"] @ x["0.adapter.lora_a"].T @ x["0.adapter.lora_b"].T
    return x["x"] @ x["0.weight"].T + ALPHA / RANK * update


def _dora(x: Mapping[str, Tensor]) -> Tensor:
    """Scale the rows of the adapted weight to the magnitudes (arXiv 2402.09353, equation 5 and section 4.3)."""
    weight = x["0.weight"] + ALPHA / RANK * x["0.adapter.lora_b"] @ x["0.adapter.lora_a"]
    norms = (weight**2).sum(1).sqrt().detach()
    return (x["x"] @ weight.T) * (x["0.adapter.lora_magnitude"] / norms)
