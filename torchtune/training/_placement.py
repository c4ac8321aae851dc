"""Place a model for training: precision, sharding, weights.

Precisions:

| `dtype` | `weights_dtype` | trained parameters, their gradients, optimizer state | frozen parameters | computing |
|---|---|---|---|---|
| `fp32` | `fp32` | fp32 | fp32 | fp32 |
| `bf16` | `fp32` | fp32 | bf16 | bf16; norms, rotary angles, softmax and the loss's sums in fp32 |
| `fp16` | `fp32` | fp32 | fp16 | fp16; the same in fp32; its range is small, hence `LossScale` |
| `bf16` | `bf16` | bf16: "pure bf16", in which small updates round to nothing | bf16 | as with `bf16` |

So a full fine-tuning in bf16 keeps fp32 master weights, and LoRA keeps a bf16 base below fp32 adapters. A bf16 copy
of the trained parameters is made for each forward pass: by FSDP where the model is sharded, by a `Scorer` where it
is not, at the same place and with the same rounding. FSDP adds up the ranks' gradients in fp32 at least.
"""

import logging
from typing import Literal

import torch
from attrs import define, field
from torch import Tensor, nn

from torchtune.config import FieldError
from torchtune.distributed import World
from torchtune.formats import load_hf_weights, read_hf_weights
from torchtune.modules import Decoder, adapted_layers, copy_whole, is_sharded, lean
from torchtune.training._activations import ActivationCheckpointing, checkpoint_activations, compile_layers
from torchtune.training._sharding import Sharding, shard

_logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
"""The values of a config's `dtype` other than auto, and fp64, which tests use."""


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """Return the precision that a config's `dtype` means on a device: auto is bf16 on a GPU that has it, else fp32."""
    if dtype != "auto":
        return dtype
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


def _can_offload(section: "Placement", _: object, value: bool) -> None:
    if section.activation_checkpointing is not None:
        try:
            section.activation_checkpointing.check(compiles=value)
        except FieldError as error:
            raise FieldError(error.message, "compile", "activation_checkpointing") from None


@define(kw_only=True)
class Placement:
    """Precision of weights, sharding, activation checkpointing and compilation of a model that is trained."""

    weights_dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of trained weights, their gradients and the optimizer's state; bf16 halves them, with dtype bf16."""
    sharding: Sharding | None = None
    """How `enable_fsdp` shards the model; null: across all ranks."""
    activation_checkpointing: ActivationCheckpointing | None = None
    """What the backward pass recomputes; null: nothing."""
    lean_layers: bool = True
    """Use layers that keep and copy less, equal to the plain ones except for the order of sums. Plain layers are used
    if they are compiled, and with keep=matmuls."""
    compile: bool = field(default=False, validator=_can_offload)
    """Compile every layer by torch.compile; the first steps take minutes, the others less."""

    @property
    def uses_lean_layers(self) -> bool:
        """Whether lean layers are used: not if the compiler or `keep=matmuls` decides what is kept."""
        section = self.activation_checkpointing
        keeps_matmuls = section is not None and section.keep == "matmuls"
        return self.lean_layers and not self.compile and not keeps_matmuls

    def check(self, *, dtype: str, enable_fsdp: bool) -> None:
        """Check the section against fields of the config outside of it.

        Args:
            dtype: The precision of computing.
            enable_fsdp: Whether the model is sharded.

        Raises:
            FieldError: They contradict each other.
        """
        if self.weights_dtype == "bf16" and dtype != "bf16":
            message = "bf16 needs dtype=bf16: weights must not be narrower than what they compute in"
            raise FieldError(message, "placement.weights_dtype", "dtype")
        if self.sharding is not None and not enable_fsdp:
            message = "without effect unless enable_fsdp=true; set that, or leave sharding out"
            raise FieldError(message, "placement.sharding", "enable_fsdp")

    def place(
        self,
        model: Decoder,
        world: World,
        directory: str | None,
        *,
        dtype: str,
        enable_fsdp: bool = False,
    ) -> None:
        """Move a model from the meta device to this rank's device, in place, with its weights.

        With several ranks, the layers are sharded by FSDP2 (`enable_fsdp`), or each rank holds the whole model and
        gradients are averaged. A single rank uses FSDP2 only to offload weights to CPU memory. On one CPU, weights that
        are not cast stay backed by their file, so that only trained parameters take memory.

        Args:
            model: Built on `torch.device("meta")`, with its adapters, and with `requires_grad` set as in training.
            world: The ranks of this run.
            directory: A Hugging Face folder to read weights from; None: random weights from the run's seed.
            dtype: The precision of computing, a key of `DTYPES` or auto; see the table above.
            enable_fsdp: Shard every layer's parameters across the ranks.

        Raises:
            FileNotFoundError: The folder or a file in it is missing.
            FieldError: The section contradicts `dtype`, `enable_fsdp` or the number of ranks.
            ValueError: The folder holds weights of another model.
        """
        dtype = resolve_dtype(dtype, world.device)
        self.check(dtype=dtype, enable_fsdp=enable_fsdp)
        sharding, section = self.sharding or Sharding(), self.activation_checkpointing
        if enable_fsdp:
            sharding.check(world.size)
        _warn_of_slow_bf16(world, dtype)
        set_dtype(model, DTYPES[dtype], DTYPES[self.weights_dtype])
        model.compute_dtype = DTYPES[dtype]
        if self.uses_lean_layers:
            lean(model)
        if section is not None:
            checkpoint_activations(model, section)
        if self.compile:
            compile_layers(model)
        is_whole = world.size == 1 and not sharding.cpu_offload
        if not is_whole:
            shard(model, world, DTYPES[dtype], sharding, split=enable_fsdp)
        device = torch.device("cpu") if sharding.cpu_offload else world.device
        _fill(model, device, world.seed, directory, is_whole=is_whole)


def _warn_of_slow_bf16(world: World, dtype: str) -> None:
    # x86 processors have had instructions for bf16 since AVX-512 (oneDNN's docs).
    is_emulated = torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX")
    if world.is_main and dtype == "bf16" and world.device.type == "cpu" and is_emulated:
        _logger.warning(
            "this CPU multiplies bf16 about 10 times as slowly as fp32; dtype=fp32 will be faster"
        )


def _fill(
    model: Decoder, device: torch.device, seed: int, model_directory: str | None, *, is_whole: bool
) -> None:
    """Allocate a model and load or draw its weights."""
    if model_directory is not None and is_whole and device.type == "cpu":  # backed by the file
        load_hf_weights(model, model_directory)
        for _, _, adapter in adapted_layers(model):
            for name, parameter in list(adapter.named_parameters()):
                # Not `empty_like`: of a meta tensor it imports torch._refs, which takes 0.5 s (torch 2.13).
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                setattr(adapter, name, nn.Parameter(empty))
    else:
        model.to_empty(device=device)
        parameters = dict(model.named_parameters())
        for name, whole in read_hf_weights(model, model_directory) if model_directory is not None else ():
            copy_whole(parameters[name], whole)
    # Drawn from the seed; torch's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if model_directory is None:
            model.init_weights()
        else:  # After the weights, from which DoRA computes its magnitudes.
            for _, layer, _ in adapted_layers(model):
                layer.reset_adapter()


def set_dtype(model: nn.Module, compute: torch.dtype, weights: torch.dtype) -> None:
    """Hold frozen parameters in the precision of computing, and trained ones in that or a wider one, in place.

    Args:
        model: On the meta device, or small.
        compute: The precision of computing.
        weights: That of trained parameters, unless `compute` is wider.
    """
    weights = torch.promote_types(compute, weights)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # a quantised weight is not
            parameter.data = parameter.data.to(weights if parameter.requires_grad else compute)


def whole_state(model: nn.Module, world: World, dtype: str | None = None) -> dict[str, Tensor] | None:
    """Gather the trained parameters whole, on the CPU of rank 0; all ranks must call it.

    Args:
        model: May be sharded.
        world: The ranks of this run.
        dtype: The precision to cast them to, a key of `DTYPES`; None: they are not cast.

    Returns:
        Parameters by name, on rank 0; None on the others.
    """
    state = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensor = parameter.detach()
        whole = tensor.full_tensor() if is_sharded(tensor) else tensor
        if world.is_main:
            state[name] = whole.to("cpu", None if dtype is None else DTYPES[dtype])
    return state if world.is_main else None
