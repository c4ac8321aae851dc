"""Activation checkpointing and compilation of layers."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from attrs import define, field
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from torchtune.config import FieldError, above
from torchtune.internals import compiler_errors
from torchtune.modules import Decoder, DecoderLayer, PassContext
from torchtune.placement._offload import InputOffload


@define(kw_only=True)
class ActivationCheckpointing:
    """Recompute activations in the backward pass instead of storing them (arXiv 1604.06174)."""

    keep: Literal["inputs", "matmuls"] = "inputs"
    """Tensors to store for the backward pass. inputs: only each layer's input; matmuls: also the outputs of matrix
    products and attention."""
    every_n_layers: int = field(default=1, validator=above(0))
    """Checkpoint layers 0, n, 2n, ...; the other layers store all activations."""
    offload: bool = False
    """Store the inputs of checkpointed layers in CPU memory; requires keep=inputs and compile=false."""

    def __attrs_post_init__(self) -> None:
        self.check()

    def check(self, *, compiles: bool = False) -> None:
        """Check that the settings are compatible.

        Args:
            compiles: Whether layers are compiled.

        Raises:
            FieldError: `offload` is set with keep=matmuls or with compiled layers.
        """
        if self.offload and self.keep != "inputs":
            message = "only the inputs of layers can be offloaded; set keep=inputs or offload=false"
            raise FieldError(message, "offload", "keep")
        if self.offload and compiles:
            message = (
                "the activations of compiled layers cannot be offloaded; set compile=false or offload=false"
            )
            raise FieldError(message, "offload")


def checkpoint_activations(
    model: Decoder, section: ActivationCheckpointing, offload: InputOffload | None = None
) -> None:
    """Change layers, in place, to recompute activations in the backward pass instead of storing them.

    Results are bitwise identical, even with dropout. A forward pass without gradients, or with a cache, is unchanged.

    Args:
        model: The model; the attribute `run` of its layers is replaced, and modules and parameters keep their names.
        section: The layers to checkpoint, and the tensors that they store.
        offload: Where layers store their inputs if `section.offload` is set; None: a new `InputOffload`.
    """
    offload = offload or InputOffload()
    layers = list(model.layers)[:: section.every_n_layers]
    for layer in layers:
        assert isinstance(layer, DecoderLayer)
        storing_input = (
            partial(offload.hooks, is_last=layer is layers[-1]) if section.offload else nullcontext
        )
        _checkpoint_layer(layer, section, storing_input)


def compile_layers(model: Decoder) -> None:
    """Compile each layer with `torch.compile`, in place; compilation happens in the first steps.

    Each layer is compiled as a single graph for each shape of the batch, and layers of the same structure share graphs.
    A layer that cannot be compiled as a single graph, or a shape beyond `_MAX_GRAPHS`, raises instead of falling back
    to slow execution. Passes with a cache, as in generation, are not compiled, because the length of a cache changes
    with every token.

    Call this after `checkpoint_activations`, so that the compiler sees the recomputation, and before applying FSDP, so
    that FSDP's hooks are not compiled.
    """
    # The compiler reads the `grad` of every parameter; cast parameters (`in_compute_dtype`) have none.
    warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
    for layer in model.layers:
        assert isinstance(layer, DecoderLayer)
        _compile_layer(layer)


def _compile_layer(layer: DecoderLayer) -> None:
    plain: Callable[..., Any] = layer.run or layer.compute
    compiled: Callable[..., Any] = torch.compile(  # type: ignore[call-overload]  # stubs lack recompile_limit
        plain, fullgraph=True, dynamic=False, recompile_limit=_MAX_GRAPHS
    )
    recompile_limit_error, compiler_error = compiler_errors()

    def run_compiled(x: Tensor, context: PassContext) -> Any:
        if context.cache is not None:
            return plain(x, context)
        try:
            return compiled(x, context)
        except recompile_limit_error as error:
            message = f"layers have been compiled {_MAX_GRAPHS} times, for different shapes or settings"
            raise ValueError(f"{message}; pack the rows, or set placement.compile=false") from error
        except compiler_error as error:
            raise ValueError(
                f"a layer cannot be compiled: {_compiler_reason(error)}; set placement.compile=false"
            ) from error

    layer.run = run_compiled


def _compiler_reason(error: Exception) -> str:
    """Return the first line of a compiler's error, and the line of code that it is about."""
    reason, *details = str(error).strip().split("\n")
    if reason.endswith(":") and details:  # errors of the code generator have their reason on the second line
        reason = f"{reason} {details[0].strip()}"
    code = [line.strip() for line in details if line.strip().startswith("File ")]
    return f"{reason} ({code[-1]})" if code else reason


_MAX_GRAPHS = 64
"""Maximum number of graphs of a layer's code.

Two for passes with and without gradients, times two for the first layer, whose input may need no gradient, times the
number of layer structures (such as with and without a sliding window), times the number of batch widths.
"""


def _checkpoint_layer(
    layer: DecoderLayer,
    section: ActivationCheckpointing,
    storing_input: Callable[[], AbstractContextManager[None]],
) -> None:
    plain: Callable[..., Any] = layer.compute
    recomputed = MethodModule(layer, plain)
    options: dict[str, Any] = {}
    if section.keep == "matmuls":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _save_products)

    def run_with_recomputation(x: Tensor, context: PassContext) -> Any:
        # Recomputation would add the same keys to the cache a second time.
        if context.cache is not None or not torch.is_grad_enabled():
            return plain(x, context)
        # `in_compute_dtype` casts parameters only during the forward pass; recomputation, which runs later, needs the
        # same cast parameters.
        parameters: Iterator[tuple[str, Tensor]] = layer.named_parameters()
        cast_parameters = {f"module.{name}": p for name, p in parameters if not isinstance(p, nn.Parameter)}

        def run(x: Tensor) -> Any:
            return torch.func.functional_call(recomputed, cast_parameters, (x, context))

        # All layers share the rotary angles and masks, so each layer stores only x.
        with storing_input():
            return checkpoint(run, x, use_reentrant=False, preserve_rng_state=True, **options)

    layer.run = run_with_recomputation


class MethodModule(nn.Module):
    """A module whose forward pass calls a method of another module, for `functional_call`.

    Args:
        module: The other module; the names of its parameters get the prefix `module.`.
        method: The method that the forward pass calls.
    """

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, *args: Any) -> Any:
        """Call the method."""
        return self.method(*args)


_SAVED_OPERATORS = {
    "aten.mm.default",
    "aten.addmm.default",
    "aten.bmm.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "flex_attention",
}
"""Names of the operators whose outputs are expensive to compute and cheap to store.

Flex attention is compiled even if its layer is not. The policy does not see operators inside compiled code, so such a
layer recomputes flex attention.
"""


def _save_products(_context: object, operator: object, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    is_saved = str(operator) in _SAVED_OPERATORS
    return CheckpointPolicy.MUST_SAVE if is_saved else CheckpointPolicy.PREFER_RECOMPUTE
