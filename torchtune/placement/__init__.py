"""Placement of a model on devices: precision, sharding, activation checkpointing and compilation."""

from torchtune.placement._activations import (
    ActivationCheckpointing,
    MethodModule,
    checkpoint_activations,
    compile_layers,
)
from torchtune.placement._placement import DTYPES, Placement, full_state, resolve_dtype, set_dtype
from torchtune.placement._sharding import Sharding, make_mesh, reduce_gradients, reshard, shard

__all__ = [
    "DTYPES",
    "ActivationCheckpointing",
    "MethodModule",
    "Placement",
    "Sharding",
    "checkpoint_activations",
    "compile_layers",
    "full_state",
    "make_mesh",
    "reduce_gradients",
    "reshard",
    "resolve_dtype",
    "set_dtype",
    "shard",
]
