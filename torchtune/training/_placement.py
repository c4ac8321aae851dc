"""From a model on the meta device to one that can be trained: precision, sharding, weights.

What is held in which precision:

| `dtype` | `weights_dtype` | trained parameters, their gradients, optimizer state | frozen parameters | computing |
|---|---|---|---|---|
| `fp32` | `fp32` | fp32 | fp32 | fp32 |
| `bf16` | `fp32` | fp32 | bf16 | bf16; norms, rotary angles, softmax and the loss's sums in fp32 |
| `fp16` | `fp32` | fp32 | fp16 | fp16; the same in fp32; its range is small, hence `LossScale` |
| `bf16` | `bf16` | bf16: "pure bf16", whose 8 bits swallow small steps | bf16 | as with `bf16` |

So a full fine-tuning in bf16 keeps fp32 master weights, and LoRA keeps a bf16 base below fp32 adapters. A bf16 copy
of the trained parameters is made for each forward pass: by FSDP where the model is sharded, by `step_loss` where it
is not, at the same place and with the same rounding. FSDP adds up the ranks' gradients in fp32 at least.
"""

import logging

import torch
from torch import Tensor, nn

from torchtune.formats import load_hf_weights, read_hf_weights
from torchtune.modules import Decoder, adapted_layers, copy_whole, is_sharded, lean
from torchtune.training._activations import ActivationCheckpointing, checkpoint_activations, compile_layers
from torchtune.training._sharding import Sharding, check_sharding, shard
from torchtune.training._world import World

_logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
"""What a config's `dtype` may say, and fp64, in which tests compare exactly."""


def place(  # noqa: PLR0913 -- each is a field of the configs
    model: Decoder,
    world: World,
    *,
    dtype: str,
    weights_dtype: str = "fp32",
    enable_fsdp: bool = False,
    sharding: Sharding | None = None,
    activation_checkpointing: ActivationCheckpointing | None = None,
    lean_layers: bool = False,
    compile: bool = False,  # noqa: A002 -- the field's name
    model_directory: str | None = None,
) -> None:
    """Bring a model from the meta device to this process's device, in place, with its weights.

    With several ranks the layers are sharded by FSDP2 (`enable_fsdp`), or each rank holds the whole model and the
    gradients are added up. With one rank both come to the same, and neither is needed, unless weights are to wait in
    CPU memory. On one CPU, weights that are not cast stay backed by their file, so that memory is used only for what
    is trained.

    Args:
        model: Built on `torch.device("meta")`, with LoRA layers added and parameters frozen as they are to be.
        world: This process and its fellows.
        dtype: A key of `DTYPES`; the table above says what it means.
        weights_dtype: What trained parameters are held in, a key of `DTYPES`, or in `dtype` if that is wider.
        enable_fsdp: Split every layer's parameters over the ranks.
        sharding: How they are split; None: over all ranks, on their device.
        activation_checkpointing: What layers compute a second time; None: nothing.
        lean_layers: Let layers keep and copy less (`torchtune.modules.lean`), unless they are compiled or the products
            of matrices are kept, where others decide what is kept.
        compile: Compile each layer.
        model_directory: A Hugging Face folder to read weights from; None: random weights from the run's seed.

    Raises:
        FileNotFoundError: The folder or a file in it is missing.
        ValueError: The folder's weights are not those of this model, or the sections do not fit the run.
    """
    check_sharding(sharding, enable_fsdp=enable_fsdp, ranks=world.size)
    # x86 processors have had instructions for bf16 since AVX-512 (oneDNN's docs).
    is_emulated = torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX")
    if world.is_main and dtype == "bf16" and world.device.type == "cpu" and is_emulated:
        _logger.warning(
            "this CPU multiplies bf16 about 10 times as slowly as fp32; dtype=fp32 will be faster"
        )
    set_dtype(model, DTYPES[dtype], DTYPES[weights_dtype])
    keeps_matmuls = activation_checkpointing is not None and activation_checkpointing.keep == "matmuls"
    if lean_layers and not compile and not keeps_matmuls:
        lean(model)
    if activation_checkpointing is not None:
        activation_checkpointing.check(compiles=compile)
        checkpoint_activations(model, activation_checkpointing)
    if compile:
        compile_layers(model)
    offloads = sharding is not None and sharding.cpu_offload
    is_whole = world.size == 1 and not offloads
    if not is_whole:
        shard(model, world, DTYPES[dtype], sharding, split=enable_fsdp)
    device = torch.device("cpu") if offloads else world.device
    _fill(model, device, world.seed, model_directory, is_whole=is_whole)


def _fill(
    model: Decoder, device: torch.device, seed: int, model_directory: str | None, *, is_whole: bool
) -> None:
    """Give a model memory and weights."""
    if model_directory is not None and is_whole and device.type == "cpu":  # backed by the file
        load_hf_weights(model, model_directory)
        for _, _, adapter in adapted_layers(model):
            for name, parameter in list(adapter.named_parameters()):
                # Not `empty_like`: of a meta tensor it imports 0.5 s of references (torch 2.13).
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
        else:  # Behind the weights, since DoRA's magnitudes are theirs.
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
        world: This process and its fellows.
        dtype: What to cast them to, a key of `DTYPES`; None: they stay as they are held.

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
