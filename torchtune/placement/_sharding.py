"""Shard a model across ranks with FSDP2, and the config section for it."""

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from attrs import define, field
from torch import nn

from torchtune.config import FieldError, above
from torchtune.distributed import World
from torchtune.modules import Decoder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@define(kw_only=True)
class Sharding:
    """Sharding options, used with `enable_fsdp`."""

    replicas: int = field(default=1, validator=above(0))
    """Number of copies of the model (HSDP); each is sharded across a group, and groups exchange only gradients."""
    cpu_offload: bool = False
    """Keep weights, gradients and optimizer state in CPU memory, and run the optimizer on the CPU. Layers are copied to
    the GPU one after another."""
    reshard_after_forward: bool = True
    """Reshard a layer's weights between its forward and backward passes; false is faster but uses more memory."""

    def check(self, ranks: int) -> None:
        """Check the section against the number of ranks.

        Raises:
            FieldError: `replicas` does not divide the number of ranks.
        """
        if ranks % self.replicas:
            reason = f"{ranks} ranks cannot be split into {self.replicas} equal groups"
            message = f"{reason}; set replicas to a divisor of {ranks}"
            raise FieldError(message, "sharding.replicas")


def shard(model: Decoder, world: World, compute: torch.dtype, sharding: Sharding, *, split: bool) -> None:
    """Shard a model across the ranks, in place.

    Each layer is gathered and resharded separately, and so is an embedding that is not tied to the output head. The
    root module (all other parameters: final norm, output head and tied embedding) is never resharded between the
    forward and backward passes, because the loss reads the head after the forward pass.

    Args:
        model: The model, on the meta device.
        world: The ranks of this run.
        compute: The compute precision; gradients are reduced in fp32 or wider.
        sharding: The settings.
        split: Whether to shard parameters; if False, each rank has the full model and only gradients are exchanged.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    mesh = make_mesh(world, sharding.replicas if split else world.size)
    precision = MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.promote_types(compute, torch.float32)
    )
    offload = OffloadPolicy()
    if sharding.cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=world.device.type == "cuda")
    shard_part = partial(fully_shard, mesh=mesh, mp_policy=precision, offload_policy=offload)
    units = list(model.layers) if model.architecture.tied_embeddings else [model.embed_tokens, *model.layers]
    for unit in units:
        shard_part(unit, reshard_after_forward=sharding.reshard_after_forward)
    shard_part(model)
    register_fsdp_forward_method(model, "hidden")


def reduce_gradients(model: Decoder, *, is_last: bool) -> None:
    """Set whether the next backward pass reduces gradients across ranks.

    Args:
        model: The model, which may be unsharded.
        is_last: Whether the pass is the last of its optimizer step.
    """
    if model.reduces_gradients_once and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(is_last)


def reshard(model: nn.Module) -> None:
    """Register the sharded parameters of a model again, in place, and free its gathered parameters.

    After a forward pass without gradients, the root module and any layer with `reshard_after_forward=False` still
    contain gathered parameters, which are rounded to the compute precision. The optimizer updates the sharded ones.
    """
    if not dist.is_initialized():  # then no parameter is sharded, and the import below would take a second
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def make_mesh(world: World, replicas: int) -> "DeviceMesh":
    """Build the device mesh: `[ranks]`, or `[replicas, ranks / replicas]` with multiple replicas.

    FSDP requires a process group. For a run on one rank, this function creates the group, and `start` destroys it.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if world.size == 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]  # documented, but not in its `__all__`
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    if replicas == 1:
        return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=("shard",))
    shape = replicas, world.size // replicas
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))
