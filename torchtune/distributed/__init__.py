"""The ranks of a run: collectives, stopping on signals, random states, and distributed checkpoints."""

from torchtune.distributed._deterministic import (
    DETERMINISTIC_ENVIRONMENT,
    deterministic_algorithms,
    set_deterministic_environment,
)
from torchtune.distributed._failures import FailureWatch, is_secondary, record_failure
from torchtune.distributed._garbage import GarbageCollection
from torchtune.distributed._join import join_ranks
from torchtune.distributed._random_state import random_state, set_random_state
from torchtune.distributed._signals import Stopped, StopRequests
from torchtune.distributed._world import World, pick_device

__all__ = [
    "DETERMINISTIC_ENVIRONMENT",
    "FailureWatch",
    "GarbageCollection",
    "StopRequests",
    "Stopped",
    "World",
    "deterministic_algorithms",
    "is_secondary",
    "join_ranks",
    "pick_device",
    "random_state",
    "record_failure",
    "set_deterministic_environment",
    "set_random_state",
]
