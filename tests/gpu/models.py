"""Tiny models of four kinds of families, optionally with a fault that only a GPU notices."""

import random
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tests.data.byte_tokenizer import ByteTokenizer
from torchtune.models.gemma import gemma2_2b
from torchtune.models.gpt2 import gpt2
from torchtune.models.qwen2 import qwen2_0_5b
from torchtune.models.smollm2 import smollm2_135m
from torchtune.modules import Decoder

Kind = Literal["llama", "gemma2", "qwen2", "gpt2"]
Fault = Literal["cpu_tensor", "mixed_dtypes", "readback", "upload"]

_SIZES: dict[str, Any] = {
    "vocab_size": ByteTokenizer.vocab_size,
    "num_layers": 2,
    "embed_dim": 32,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
    "ffn_dim": 48,
    "max_seq_len": 256,
}
_WINDOW = {"window": 24, "embed_scale": 32**0.5, "attention_scale": 0.25}
# A head dimension of 8 is too small for `flex`, so packed rows of llama use `varlen`.
_ARCHITECTURES = {
    "llama": smollm2_135m.architecture.evolve(**_SIZES | {"head_dim": 8}),
    "gemma2": gemma2_2b.architecture.evolve(**_SIZES | _WINDOW),
    "qwen2": qwen2_0_5b.architecture.evolve(**_SIZES),
    "gpt2": gpt2.architecture.evolve(**_SIZES | {"num_kv_heads": 2}),
}
FAMILIES: tuple[Kind, ...] = ("llama", "gemma2", "qwen2", "gpt2")


def tiny(kind: Kind, fault: Fault | None = None, seed: int = 0) -> Decoder:
    """Build a tiny model.

    Args:
        kind: The family.
        fault: A fault to plant in a layer; None: no fault.
        seed: Seed that determines the layer, its module, and whether the fault is in the forward or the backward pass.
    """
    model = Decoder(_ARCHITECTURES[kind])
    if fault is not None:
        draw = random.Random(seed)
        modules = [module for module in model.layers.modules() if not list(module.children())]
        draw.choice(modules).register_forward_hook(_hook(_FAULTS[fault], is_backward=draw.random() < 0.5))
    return model


def _add_cpu_tensor(x: Tensor) -> Tensor:
    return x + torch.zeros(x.shape, dtype=x.dtype)


def _multiply_by_float64(x: Tensor) -> Tensor:
    return x @ torch.eye(x.shape[-1], dtype=torch.float64, device=x.device)


def _read_back(x: Tensor) -> Tensor:
    return x if x.sum().item() < float("inf") else x * 2


def _upload(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0], dtype=x.dtype, device=x.device)


_FAULTS: dict[Fault, Callable[[Tensor], Tensor]] = {
    "cpu_tensor": _add_cpu_tensor,
    "mixed_dtypes": _multiply_by_float64,
    "readback": _read_back,
    "upload": _upload,
}


def _hook(fault: Callable[[Tensor], Tensor], *, is_backward: bool) -> Callable[..., Tensor]:
    """Return a hook that applies a fault to the output of a module, or to the output's gradient."""

    def apply(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if not is_backward:
            return fault(output)
        if output.requires_grad:
            output.register_hook(fault)  # type: ignore[no-untyped-call]
        return output

    return apply
