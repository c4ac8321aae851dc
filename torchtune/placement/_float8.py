"""Matrix products in float8, by torchao (arXiv 2209.05433).

Both factors of a product are scaled, so that the largest value of each is the largest of its format, and rounded:
inputs and weights to e4m3 (3 mantissa bits), gradients of outputs to e5m2 (2 mantissa bits). The product is rounded to
bfloat16. A scale is computed from the current values of the whole tensor. There is therefore no state to save, but the
rounding errors of a row depend on the other rows of its batch.
"""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from torchtune.config import FieldError
from torchtune.modules import Decoder, Hardware, Linear

FLOAT8_CAPABILITY = (8, 9)
"""The lowest compute capability that supports float8 products (Ada GPUs; Hopper GPUs have 9.0)."""
FLOAT8_MULTIPLE = 16
"""The widths of a float8 product's factors must be multiples of this number (cuBLAS, `torch._scaled_mm`)."""


def check_float8(*, dtype: str, device: str, compiles: bool) -> None:
    """Check that other fields of a config allow products in float8.

    Args:
        dtype: The compute precision.
        device: A config's `device`.
        compiles: Whether layers are compiled on a GPU. The casts of uncompiled layers take longer than their products
            save.

    Raises:
        FieldError: The fields are incompatible, or torchao is not installed.
    """
    if dtype != "bf16":
        message = f"requires dtype=bf16, got dtype={dtype}; set dtype=bf16, or remove fp8"
        raise FieldError(message, "placement.fp8", "dtype")
    if device not in ("auto", "cuda"):
        message = f"is not supported with device={device}; set device=cuda, or remove fp8"
        raise FieldError(message, "placement.fp8", "device")
    if not compiles:
        message = (
            "requires compiled layers; remove compile=false and activation_checkpointing.offload=true,"
            " or remove fp8"
        )
        raise FieldError(message, "placement.fp8", "placement.compile")
    if find_spec("torchao") is None:
        raise FieldError(
            "needs the package torchao; install it: pip install torchao, or remove fp8", "placement.fp8"
        )


def check_float8_hardware(hardware: Hardware, *, compiles: bool) -> None:
    """Check that a device supports float8 products, and that layers are compiled on it.

    Raises:
        FieldError: The device does not support float8 products, or layers cannot be compiled.
    """
    if not hardware.is_cuda or hardware.capability < FLOAT8_CAPABILITY:
        message = (
            "this device does not support float8 products, which require a GPU of compute capability 8.9 (Ada)"
            " or later; remove fp8"
        )
        raise FieldError(message, "placement.fp8")
    if not compiles:
        message = "requires compiled layers, for which Triton is missing; install triton, or remove fp8"
        raise FieldError(message, "placement.fp8")


def use_float8(model: Decoder) -> None:
    """Compute the products of the linear layers inside decoder layers in float8, in place.

    Modules, parameters and their names remain the same. The embedding, the output head and the matrices of adapters are
    not changed.

    Raises:
        FieldError: A layer is not of class `Linear`, such as a quantized layer, or has an unsupported width.
    """
    layers = dict(_linear_layers(model))
    for name, layer in layers.items():
        _check_layer(name, layer)
    # All layers share one function, so that they share compiled graphs.
    multiply = partial(_multiply, _float8_linear())
    for layer in layers.values():
        assert isinstance(layer, Linear)
        layer.multiply = multiply


def _linear_layers(model: Decoder) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.layers.named_modules(prefix="layers"):
        if isinstance(module, nn.Linear):
            yield name, module


def _check_layer(name: str, layer: nn.Linear) -> None:
    if type(layer) is not Linear:
        message = f"{name} is of class {type(layer).__name__}, but float8 products require Linear; remove fp8"
        raise FieldError(message, "placement.fp8")
    widths = layer.in_features, layer.out_features
    if any(width % FLOAT8_MULTIPLE for width in widths):
        message = (
            f"{name} has the widths {widths[0]} and {widths[1]}, but float8 products require multiples of"
            f" {FLOAT8_MULTIPLE}; remove fp8"
        )
        raise FieldError(message, "placement.fp8")


def _float8_linear() -> nn.Module:
    """Return a linear layer of torchao that has no weight; a call passes the weight, of any size.

    `convert_to_float8_training` also works around an error of Triton (triton-lang/triton#11111).
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    linear = nn.Linear(FLOAT8_MULTIPLE, FLOAT8_MULTIPLE, bias=False, device="meta")
    # The gradient of a weight is a sum over tokens, whose number need not be a multiple of 16.
    converted: nn.Module = convert_to_float8_training(linear, config=Float8LinearConfig(pad_inner_dim=True))
    return converted


def _multiply(float8_linear: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `x W^T + b`, `[..., out]`, with a product in float8."""
    y: Tensor = torch.func.functional_call(float8_linear, {"weight": weight}, (x,))
    return y if bias is None else y + bias
