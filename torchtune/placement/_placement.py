"""Place a model on a device for training: precision, sharding and weights.

Precisions:

| `dtype` | `weights_dtype` | trained parameters, gradients, optimizer state | frozen parameters | computation |
|---|---|---|---|---|
| `fp32` | `fp32` | fp32 | fp32 | fp32; with `tf32`, the inputs of matrix products are rounded to 10-bit mantissas |
| `bf16` | `fp32` | fp32 | bf16 | bf16; norms, rotary angles, softmax and the loss's sums in fp32 |
| `fp16` | `fp32` | fp32 | fp16 | fp16, with the same fp32 exceptions as `bf16`; loss scaling (`LossScale`) |
| `bf16` | `bf16` | bf16 ("pure bf16": small updates are rounded to 0) | bf16 | as with `bf16` |

With `fp8`, the factors of the matrix products of decoder layers are rounded to float8 (`_float8`).

Therefore, full fine-tuning in bf16 has fp32 master weights, and LoRA has a bf16 base model with fp32 adapters. The
trained parameters are cast to bf16 for each forward pass: by FSDP if the model is sharded, otherwise by a `Scorer`,
with the same rounding. FSDP reduces gradients in fp32 or wider.
"""

import logging
from typing import Literal

import torch
from attrs import define, field
from torch import Tensor, nn

from torchtune.config import FieldError
from torchtune.distributed import World
from torchtune.formats import load_hf_weights, read_hf_weights
from torchtune.modules import (
    Decoder,
    Hardware,
    adapted_layers,
    copy_full,
    gather_full,
    hardware_of,
    lean,
)
from torchtune.placement._activations import ActivationCheckpointing, checkpoint_activations, compile_layers
from torchtune.placement._float8 import check_float8, check_float8_hardware, use_float8
from torchtune.placement._sharding import Sharding, reshard, shard

_logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
"""Dtypes by name: the values of a config's `dtype` other than auto, and fp64, which only tests use."""


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """Resolve a config's `dtype` for a device: auto is bf16 on GPUs that support it, else fp32."""
    if dtype != "auto":
        return dtype
    hardware = hardware_of(device)
    return "bf16" if hardware.is_cuda and hardware.capability >= (8, 0) else "fp32"


def _check_compile(section: "Placement", _: object, value: bool | str) -> None:
    if section.activation_checkpointing is not None:
        try:
            section.activation_checkpointing.check(compiles=value is True)
        except FieldError as error:
            raise FieldError(error.message, "compile", "activation_checkpointing") from None


@define(kw_only=True)
class Placement:
    """Precision, sharding, activation checkpointing and compilation of a model during training."""

    weights_dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of trained weights, gradients and optimizer state; bf16 halves their memory and requires dtype=bf16."""
    sharding: Sharding | None = None
    """How to shard the model with `enable_fsdp`; null: across all ranks, without offloading."""
    activation_checkpointing: ActivationCheckpointing | None = None
    """Recompute activations in the backward pass to save memory; null: store all activations."""
    lean_layers: bool = True
    """Use memory-saving layers, which give the same results as the standard layers up to the order of summation. Has no
    effect on compiled layers or with keep=matmuls, which use the standard layers."""
    compile: Literal["auto"] | bool = field(default="auto", validator=_check_compile)
    """Compile every layer with torch.compile: the first steps take minutes, later ones are faster. auto: on CUDA GPUs,
    unless activations are offloaded."""
    tf32: bool = False
    """Compute float32 matrix products with 10-bit mantissas (TF32) on GPUs of compute capability 8.0 (Ampere) or later:
    about 8 times as fast, and about as precise as fp16; requires dtype=fp32."""
    fp8: bool = False
    """Compute the matrix products of decoder layers in float8, on GPUs of compute capability 8.9 (Ada) or later;
    requires dtype=bf16, compiled layers and the package torchao."""

    reduce_gradients_once: bool = False
    """Reduce gradients across ranks once per step instead of in every micro-batch: less communication, which matters on
    slow networks, but with sharding each rank then stores full gradients in fp32."""

    def compiles(self, hardware: Hardware) -> bool:
        """Return whether layers are compiled on this hardware."""
        if self.compile != "auto":
            return self.compile
        section = self.activation_checkpointing
        offloads = section is not None and section.offload
        return hardware.is_cuda and hardware.has_triton and not offloads

    def uses_lean_layers(self, hardware: Hardware) -> bool:
        """Return whether lean layers are used: not if layers are compiled, nor with keep=matmuls.

        A compiler chooses the tensors to store, and so does keep=matmuls. Compiled layers also fuse what lean layers
        compute one operation at a time (`python -m benchmarks.layer_traffic`).
        """
        return self.lean_layers and not self.compiles(hardware) and not self.keeps_matmuls

    @property
    def keeps_matmuls(self) -> bool:
        """Whether layers store the outputs of matrix products instead of recomputing them."""
        section = self.activation_checkpointing
        return section is not None and section.keep == "matmuls"

    def check(self, *, dtype: str, enable_fsdp: bool, device: str = "auto") -> None:
        """Check that the section is compatible with other fields of the config.

        Args:
            dtype: The compute precision.
            enable_fsdp: Whether the model is sharded.
            device: A config's `device`.

        Raises:
            FieldError: The fields are incompatible.
        """
        if self.weights_dtype == "bf16" and dtype != "bf16":
            message = "bf16 requires dtype=bf16: weights must be at least as precise as the computation"
            raise FieldError(message, "placement.weights_dtype", "dtype")
        if self.sharding is not None and not enable_fsdp:
            message = "this section has no effect without enable_fsdp=true; set enable_fsdp=true, or remove sharding"
            raise FieldError(message, "placement.sharding", "enable_fsdp")
        if self.tf32 and dtype != "fp32":
            message = f"has no effect with dtype={dtype}; set dtype=fp32, or remove tf32"
            raise FieldError(message, "placement.tf32", "dtype")
        if self.tf32 and device not in ("auto", "cuda"):
            message = f"has no effect with device={device}; remove tf32"
            raise FieldError(message, "placement.tf32", "device")
        if self.fp8:
            gpu = Hardware("cuda", (9, 0))
            check_float8(dtype=dtype, device=device, compiles=self.compiles(gpu))

    def place(
        self,
        model: Decoder,
        world: World,
        directory: str | None,
        *,
        dtype: str,
        enable_fsdp: bool = False,
    ) -> None:
        """Move a model from the meta device to this rank's device, in place, and load its weights.

        With multiple ranks, FSDP2 either shards the layers (`enable_fsdp`), or averages the gradients of full models. A
        single rank uses FSDP2 only to offload weights to CPU memory. On a single CPU rank, weights that are not cast
        are memory-mapped, so that only trained parameters use memory.

        Args:
            model: The model on the meta device, with its adapters, and with `requires_grad` set as in training.
            world: The ranks of this run.
            directory: A Hugging Face folder to read weights from; None: random weights from the run's seed.
            dtype: The compute precision, a key of `DTYPES` or auto; see the table above.
            enable_fsdp: Whether to shard every layer's parameters across the ranks.

        Raises:
            FileNotFoundError: The folder or a file in it is missing.
            FieldError: The section is incompatible with `dtype`, `enable_fsdp`, the number of ranks, the device or the
                layers.
            ValueError: The folder contains weights of a different model.
        """
        dtype = resolve_dtype(dtype, world.device)
        self.check(dtype=dtype, enable_fsdp=enable_fsdp)
        sharding, section = self.sharding or Sharding(), self.activation_checkpointing
        if enable_fsdp:
            sharding.check(world.size)
        hardware = hardware_of(world.device)
        if self.fp8:
            check_float8_hardware(hardware, compiles=self.compiles(hardware))
        _warn_if_bf16_is_slow(world, dtype)
        _set_tf32(hardware, enabled=self.tf32)
        set_dtype(model, DTYPES[dtype], DTYPES[self.weights_dtype])
        model.compute_dtype = DTYPES[dtype]
        model.reduces_gradients_once = self.reduce_gradients_once
        if self.fp8:
            use_float8(model)
        if self.uses_lean_layers(hardware):
            lean(model)
        if section is not None:
            checkpoint_activations(model, section)
        if self.compiles(hardware):
            compile_layers(model)
        is_unsharded = world.size == 1 and not sharding.cpu_offload
        if not is_unsharded:
            shard(model, world, DTYPES[dtype], sharding, split=enable_fsdp)
        device = torch.device("cpu") if sharding.cpu_offload else world.device
        _fill(model, device, world.seed, directory, is_unsharded=is_unsharded)


def _set_tf32(hardware: Hardware, *, enabled: bool) -> None:
    """Select the precision of float32 matrix products on a GPU, so that an earlier run's choice has no effect.

    Raises:
        FieldError: The device has no TF32.
    """
    if enabled and hardware.capability < (8, 0):
        message = (
            "this device has no TF32, which requires a GPU of compute capability 8.0 or later; remove tf32"
        )
        raise FieldError(message, "placement.tf32")
    if hardware.is_cuda:
        # https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
        torch.backends.cuda.matmul.fp32_precision = "tf32" if enabled else "ieee"


def _warn_if_bf16_is_slow(world: World, dtype: str) -> None:
    # x86 processors with AVX-512 or newer have bf16 instructions (oneDNN's docs).
    is_emulated = torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX")
    if world.is_main and dtype == "bf16" and world.device.type == "cpu" and is_emulated:
        _logger.warning("bf16 is about 10 times slower than fp32 on this CPU; set dtype=fp32")


def _fill(
    model: Decoder, device: torch.device, seed: int, model_directory: str | None, *, is_unsharded: bool
) -> None:
    """Allocate a model, and load or initialize its weights."""
    if model_directory is not None and is_unsharded and device.type == "cpu":  # memory-mapped
        load_hf_weights(model, model_directory)
        for _, _, adapter in adapted_layers(model):
            for name, parameter in list(adapter.named_parameters()):
                # For meta tensors, `empty_like` would import torch._refs, which takes 0.5 s (torch 2.13).
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                setattr(adapter, name, nn.Parameter(empty))
    else:
        model.to_empty(device=device)
        parameters = dict(model.named_parameters())
        for name, weight in read_hf_weights(model, model_directory) if model_directory is not None else ():
            copy_full(parameters[name], weight)
    # Random weights depend only on the seed; the state of torch's generator is unchanged.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if model_directory is None:
            model.init_weights()
        else:  # this follows the loading of the weights, from which DoRA computes its magnitudes
            for _, layer, _ in adapted_layers(model):
                layer.reset_adapter()


def set_dtype(model: nn.Module, compute: torch.dtype, weights: torch.dtype) -> None:
    """Cast frozen parameters to the compute precision, and trained ones to that precision or a wider one, in place.

    Args:
        model: The model; on the meta device, unless it is small.
        compute: The compute precision.
        weights: The precision of trained parameters, unless `compute` is wider.
    """
    weights = torch.promote_types(compute, weights)
    for parameter in model.parameters():
        if parameter.is_floating_point():  # a quantized weight is not
            parameter.data = parameter.data.to(weights if parameter.requires_grad else compute)


def full_state(model: nn.Module, world: World) -> dict[str, Tensor] | None:
    """Gather the full (unsharded) trained parameters on the CPU of rank 0; all ranks must call this.

    These are the parameters that the optimizer updates, even after a forward pass without gradients (`reshard`).

    Args:
        model: The model, which may be sharded.
        world: The ranks of this run.

    Returns:
        Parameters by name, on rank 0; None on other ranks.
    """
    reshard(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    state = {name: gather_full(parameter, 0) for name, parameter in trained.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None} if world.is_main else None
