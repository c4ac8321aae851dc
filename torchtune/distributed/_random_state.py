"""Get and set the state of all random number generators that a run uses."""

import random
import sys
from typing import Any

import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the random states of Python, of numpy if it is imported, and of torch on the CPU and on `device`.

    The result can be saved with `torch.save` and loaded with `torch.load(weights_only=True)`.
    """
    state: dict[str, Any] = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    if "numpy" in sys.modules:
        numpy_state = sys.modules["numpy"].random.get_state(legacy=False)
        key = numpy_state["state"]["key"].tolist()
        state["numpy"] = {**numpy_state, "state": {**numpy_state["state"], "key": key}}
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore a state that `random_state` returned; generators missing from it are unchanged."""
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
    if "numpy" in state:
        import numpy as np

        key = np.array(state["numpy"]["state"]["key"], dtype=np.uint32)
        np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})
