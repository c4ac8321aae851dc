"""torch's optimizers without its compiler, which they import only to tell it that they are not to be compiled."""

import inspect
import sys
from types import MethodType
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from torchtune.internals._internal import Internal


def spare_the_compiler() -> None:
    """Let optimizers be made without importing torch._dynamo: more than a second, and 60 MB (torch 2.13).

    Methods of `Optimizer` are marked as not to be compiled when they are first called, which imports the compiler to do
    so; what it would return is put where they look for it. Where the compiler is there already, nothing is changed.
    """
    if "torch._dynamo" not in sys.modules and OPTIMIZER_STEP.is_enabled():
        _mark_methods()


def lighten(optimizer: Optimizer) -> None:
    """Let an optimizer of torch's own take its steps without importing torch._dynamo, in place."""
    is_torchs = type(optimizer).__module__.startswith("torch.optim.")
    if "torch._dynamo" not in sys.modules and is_torchs and OPTIMIZER_STEP.is_enabled():
        _replace_step(optimizer)


def _mark_methods() -> None:
    for method in vars(Optimizer).values():
        marked = getattr(method, "__wrapped__", None)
        if marked is not None and getattr(method, "__module__", "") == "torch.optim.optimizer":
            vars(marked).setdefault("__dynamo_disable", marked)


def _replace_step(optimizer: Optimizer) -> None:
    """Let an optimizer's step be the innermost one of its class.

    Its class's `step` is wrapped twice: to call hooks and a profiler, and to tell the compiler to stay away. The step
    itself is called without either, and without gradients as it is there; an optimizer with hooks keeps its own.
    """
    plain = type(optimizer).step
    light = torch.no_grad()(inspect.unwrap(plain))

    def take(self: Optimizer, *given: Any) -> Any:
        has_hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return (plain if has_hooks else light)(self, *given)

    if not optimizer.defaults.get("differentiable", False):
        optimizer.step = MethodType(take, optimizer)  # type: ignore[method-assign]


def _takes_a_step() -> bool:
    """Make an optimizer, take a step and clear the gradient; the compiler must stay away."""
    was_imported = "torch._dynamo" in sys.modules
    _mark_methods()
    parameter = torch.nn.Parameter(torch.ones(1, device="cpu"))
    optimizer = SGD([parameter], lr=0.5, foreach=False)
    _replace_step(optimizer)
    parameter.grad = torch.ones(1, device="cpu")
    optimizer.step()
    optimizer.zero_grad()
    is_right = parameter.tolist() == [0.5] and parameter.grad is None
    return is_right and ("torch._dynamo" in sys.modules) == was_imported


OPTIMIZER_STEP = Internal(
    name="optimizer step",
    written_for="torch 2.13.0",
    gain='time to the first step: the line "torch\'s optimizer as it is" of '
    "python benchmarks/training.py MODEL ROWS --ablate",
    fallback="torch imports its compiler: a second and 60 MB more",
    probe=_takes_a_step,
)
