"""Activation checkpointing and compilation of layers."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from torchtune.config import FieldError, above
from torchtune.modules import Decoder, DecoderLayer, PassContext


@define(kw_only=True)
class ActivationCheckpointing:
    """Layers keep little for the backward pass, which computes the rest a second time (arXiv 1604.06174)."""

    keep: Literal["inputs", "matmuls"] = "inputs"
    """What a layer keeps: its input alone; or also what matrix products and attention gave, which costs less time."""
    every_n_layers: int = field(default=1, validator=above(0))
    """Layers 0, n, 2n, ... keep little; the others everything."""
    offload: bool = False
    """Let the inputs of those layers wait in CPU memory; only with keep=inputs, and layers that are not compiled."""

    def __attrs_post_init__(self) -> None:
        self.check()

    def check(self, *, compiles: bool = False) -> None:
        """Check the settings against each other.

        Args:
            compiles: Whether layers are compiled.

        Raises:
            FieldError: Only the inputs of uncompiled layers can be offloaded.
        """
        if self.offload and self.keep != "inputs":
            message = "only inputs wait in CPU memory; write keep=inputs, or offload=false"
            raise FieldError(message, "offload", "keep")
        if self.offload and compiles:
            message = (
                "the compiler decides what a layer keeps, and where; write compile=false, or offload=false"
            )
            raise FieldError(message, "offload")


def checkpoint_activations(model: Decoder, section: ActivationCheckpointing) -> None:
    """Let layers compute their activations again in the backward pass instead of keeping them, in place.

    Results are the same to the bit, dropout included. A forward pass without gradients, or with a cache, is left as
    it is.

    Args:
        model: Its layers get another `run`; modules and parameters keep their names.
        section: Which layers, and what they keep.
    """
    for layer in list(model.layers)[:: section.every_n_layers]:
        assert isinstance(layer, DecoderLayer)
        _checkpoint_layer(layer, section)


def compile_layers(model: Decoder) -> None:
    """Compile each layer with `torch.compile`, in place; the first steps wait for the compiler.

    Call it after `checkpoint_activations`, so that the compiler sees what is computed twice, and before
    FSDP, whose hooks stay outside.
    """
    for layer in model.layers:
        assert isinstance(layer, DecoderLayer)
        layer.run = torch.compile(layer.run or layer.compute)


def _checkpoint_layer(layer: DecoderLayer, section: ActivationCheckpointing) -> None:
    plain: Callable[..., Any] = layer.compute
    recomputed = Calling(layer, plain)
    kept: dict[str, Any] = {}
    if section.keep == "matmuls":
        kept["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)

    def run_twice(x: Tensor, context: PassContext) -> Any:
        # Computing a second time would put the same keys into a cache again.
        if context.cache is not None or not torch.is_grad_enabled():
            return plain(x, context)
        # `in_compute_dtype` casts parameters for the forward pass alone, and recomputation comes later: it needs the
        # cast parameters that the forward pass saw.
        parameters: Iterator[tuple[str, Tensor]] = layer.named_parameters()
        swapped = {f"module.{name}": p for name, p in parameters if not isinstance(p, nn.Parameter)}

        def run(x: Tensor) -> Any:
            return torch.func.functional_call(recomputed, swapped, (x, context))

        # Angles and masks are shared by all layers, so that a layer keeps x alone.
        with save_on_cpu(pin_memory=x.is_cuda) if section.offload else nullcontext():
            return checkpoint(run, x, use_reentrant=False, preserve_rng_state=True, **kept)

    layer.run = run_twice


class Calling(nn.Module):
    """A module that calls a method of another one, for `functional_call`.

    Args:
        module: The names of its parameters get the prefix `module.`.
        method: What is called in the forward pass.
    """

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, *args: Any) -> Any:
        """Call the method."""
        return self.method(*args)


_KEPT = {
    "aten.mm.default",
    "aten.addmm.default",
    "aten.bmm.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "flex_attention",
}
"""Names of the operators whose outputs are costly to compute and cheap to keep.

Flex attention is compiled even if the layer is not; the policy does not see into it then, so it is recomputed.
"""


def _keep_products(_context: object, operator: object, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    is_kept = str(operator) in _KEPT
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
